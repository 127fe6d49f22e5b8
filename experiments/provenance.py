"""What made a run: the commit, the day and the processor."""

import datetime
import subprocess
from pathlib import Path

from train.system.devices import processor_name

HERE = Path(__file__).parent
CODE = (":/experiments", ":/grass_optax", ":/models", ":/train", ":/pyproject.toml")


def made_by() -> dict[str, str]:
    """Those of a run that begins now."""
    return {"commit": commit(), "date": datetime.date.today().isoformat(), "processor": processor_name()}


def commit() -> str:
    """The commit of this checkout; a + follows if the code differs from it."""
    name = _git("rev-parse", "--short", "HEAD").stdout.strip()
    if not name:
        return "unknown"
    return name + ("+" if _git("status", "--porcelain", "--", *CODE).stdout else "")


def _git(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
