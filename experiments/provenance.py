"""What made a run: the commit, the day and the processor; and the line of a page that says so."""

import datetime
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from train.system.devices import processor_name

HERE = Path(__file__).parent
CODE = (":/experiments", ":/grass_optax", ":/models", ":/train", ":/pyproject.toml")
UNKNOWN = "unknown"  # of runs that were made before this was recorded


class Made(Protocol):
    """What an outcome says of its run."""

    @property
    def corpus(self) -> str:
        """Fingerprint of the text."""

    @property
    def device(self) -> str:
        """What computed."""

    @property
    def processor(self) -> str:
        """That of the host."""

    @property
    def date(self) -> str:
        """When it began."""

    @property
    def commit(self) -> str:
        """That of the code."""


def made_by() -> dict[str, str]:
    """Those of a run that begins now."""
    return {"commit": commit(), "date": datetime.date.today().isoformat(), "processor": processor_name()}


def commit() -> str:
    """The commit of this checkout; a + follows if the code differs from it."""
    name = _git("rev-parse", "--short", "HEAD").stdout.strip()
    if not name:
        return UNKNOWN
    return name + ("+" if _git("status", "--porcelain", "--", *CODE).stdout else "")


def made_on(outcomes: Iterable[Made], text: str = "") -> str:
    """Where outcomes come from: text and hash if there is a text, machine, days and commits."""
    corpora, devices, processors, dates, commits = (
        sorted(set(values))
        for values in zip(*((o.corpus, o.device, o.processor, o.date, o.commit) for o in outcomes), strict=True)
    )
    parts = [
        f"on {', '.join(devices)}",
        f"processor {_recorded(processors)}",
        f"date {_recorded(dates, is_range=True)}",
        f"commit {_recorded(commits)}",
    ]
    of_text = f"{text} of hash {', '.join(corpus[:12] for corpus in corpora)}; " if text else ""
    dirty = " (+: with changes that were not committed)" if any(name.endswith("+") for name in commits) else ""
    return of_text + ", ".join(parts) + dirty


def _recorded(values: Sequence[str], is_range: bool = False) -> str:
    """What is recorded, and whether that is all."""
    known = [value for value in values if value != UNKNOWN]
    shown = " to ".join(dict.fromkeys([known[0], known[-1]])) if is_range and known else ", ".join(known)
    return " or ".join(filter(None, [shown, "not recorded" if UNKNOWN in values else ""]))


def _git(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
