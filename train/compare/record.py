"""What a comparison keeps: the flags it was started with, and what the folder of each run says
about its outcome.

compare.json   the flags and the text of the comparison, and the outcome of all runs compare.md
the table; the best run of each optimizer compare.png    their held-out losses
OPTIMIZER-lrLR-scaleSCALE/   a run of `pretrain`, log.txt with all it said, and diverged.txt if it
did
"""

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from train.compare.config import Cell, Compare, cells
from train.config.run import UserError
from train.pretrain.folder import METRICS, SUMMARY
from train.pretrain.metrics import Row, read_rows
from train.system.files import write_whole

COMPARISON, TABLE, CURVES = "compare.json", "compare.md", "compare.png"
LOG, DIVERGED = "log.txt", "diverged.txt"
FIRST = 5  # updates that do not count for the speed: caches are cold


class Record(NamedTuple):
    """What makes the runs of a comparison comparable."""

    flags: dict[str, Any]
    data_fingerprint: str


class Result(NamedTuple):
    """The outcome of a run; of one that diverged, there are no numbers."""

    optimizer: str
    learning_rate: float
    scale: float
    folder: str
    diverged: bool
    eval_loss: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None  # median
    optimizer_bytes: int | None = None
    peak_memory_bytes: int | None = None  # where the backend tells
    device: str | None = None

    def __str__(self) -> str:
        if self.diverged:
            return "diverged"
        return f"eval loss {self.eval_loss:.4f}, {self.bits_per_byte:.4f} bits per byte"


def kept_record(folder: Path) -> Record | None:
    """Return the record of the comparison in the folder; None if the folder is empty or missing."""
    if not folder.is_dir() or all(path.name == ".lock" for path in folder.iterdir()):
        return None
    try:
        content = json.loads((folder / COMPARISON).read_text())
        return Record(content["flags"], content["data_fingerprint"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        raise UserError(f"--run-dir {folder} holds something, but no comparison: choose another folder.") from None


def results(config: Compare) -> list[Result]:
    """Return the outcome of all runs that have one."""
    found = [result_of(cell, config.run_dir / cell.folder) for cell in cells(config)]
    return [result for result in found if result]


def result_of(cell: Cell, folder: Path) -> Result | None:
    """Return the outcome of a run, or None while it has none."""
    if (folder / DIVERGED).exists():
        return Result(*cell, folder.name, diverged=True)
    if not (folder / SUMMARY).exists():
        return None
    summary = json.loads((folder / SUMMARY).read_text())
    return Result(
        *cell,
        folder.name,
        diverged=False,
        eval_loss=summary["eval_loss"],
        bits_per_byte=summary["bits_per_byte"],
        tokens_per_second=median_speed(read_rows(folder / METRICS)),
        optimizer_bytes=summary["optimizer_bytes"],
        peak_memory_bytes=summary.get("peak_memory_bytes"),
        device=summary["device"],
    )


def median_speed(rows: list[Row]) -> float:
    """Return the median of the tokens per second of the updates after the first few."""
    speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    return statistics.median(speeds[FIRST:] or speeds)


def mark_diverged(folder: Path) -> None:
    """Keep the last words of a run that diverged, so that it is not tried again."""
    write_whole(folder / DIVERGED, last_line(folder / LOG) + "\n")


def last_line(log: Path) -> str:
    """Return the last line that is not empty."""
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
