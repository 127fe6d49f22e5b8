"""What made a run: the commit, the day and the processor."""

import datetime
import subprocess
from pathlib import Path

from benchmarks.measure import processor

HERE = Path(__file__).parent
RESULTS = ":(top,exclude)docs/results"  # a study adds lines to files there while it runs


def provenance() -> dict[str, str]:
    """Those of a run that ends now."""
    return {"commit": commit(), "date": datetime.date.today().isoformat(), "processor": processor()}


def commit() -> str:
    """The commit of this checkout; a + follows if a file outside docs/results differs from it."""
    name = _git("rev-parse", "--short", "HEAD").stdout.strip()
    if not name:
        return "unknown"
    return name + ("+" if _git("diff", "--quiet", "HEAD", "--", ":/", RESULTS).returncode else "")


def _git(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
