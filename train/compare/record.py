"""The files of a comparison: its settings, and the outcome of each run.

compare.json   settings and text of the comparison, and the outcome of all runs
compare.md     the table: the best run of each optimizer, and of each of its bases
compare.png    held-out losses of these runs, and those of a sweep over its learning rates
OPTIMIZER[-BASIS]-lrLR-scaleSCALE/   a run of `pretrain`, with settings.json (its --config),
               log.txt (its output), and diverged.txt if it diverged
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import NamedTuple

from train.compare.config import Cell, Compare, cells, contestant
from train.config.run import UserError
from train.config.stored import Settings
from train.loop.child import LOG, last_line
from train.storage.folder import RunFolder
from train.storage.metrics import Row, read_rows
from train.system.files import write_whole

COMPARISON, TABLE, CURVES = "compare.json", "compare.md", "compare.png"
DIVERGED = "diverged.txt"
WARMUP = 5  # first updates, which do not count for the speed: caches are cold


@dataclasses.dataclass(frozen=True)
class Record:
    """What makes the runs of a comparison comparable."""

    settings: Settings
    data_fingerprint: str


class Result(NamedTuple):
    """The outcome of a run; a diverged run has no numbers."""

    optimizer: str
    basis: str
    learning_rate: float
    scale: float
    folder: str
    diverged: bool
    eval_loss: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None  # median over the updates
    tokens_per_second_quartiles: tuple[float, float] | None = None  # the lower and the upper
    optimizer_bytes: int | None = None
    peak_memory_bytes: int | None = None  # if the backend reports it
    device: str | None = None

    @property
    def name(self) -> str:
        """The name of its row."""
        return contestant(self.optimizer, self.basis)

    def __str__(self) -> str:
        if self.diverged:
            return "diverged"
        return f"eval loss {self.eval_loss:.4f}, {self.bits_per_byte:.4f} bits per byte"


def stored_record(folder: Path) -> Record | None:
    """Return the record of the comparison in the folder; None if the folder is empty or missing."""
    if not folder.is_dir() or all(path.name == ".lock" for path in folder.iterdir()):
        return None
    try:
        content = json.loads((folder / COMPARISON).read_text())
        return Record(content["settings"], content["data_fingerprint"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        raise UserError(
            f"--run-dir {folder} is not empty, and contains no comparison that this version can read: "
            "choose another folder."
        ) from None


def results(config: Compare) -> list[Result]:
    """Return the outcome of all runs that have one."""
    outcomes = [result_of(cell, config.run_dir / cell.folder) for cell in cells(config)]
    return [result for result in outcomes if result]


def result_of(cell: Cell, path: Path) -> Result | None:
    """Return the outcome of a run, or None if it has not finished."""
    if (path / DIVERGED).exists():
        return Result(*cell, path.name, diverged=True)
    folder = RunFolder(path)
    if not folder.summary.exists():
        return None
    summary = json.loads(folder.summary.read_text())
    low, median, high = speed_quartiles(read_rows(folder.metrics))
    return Result(
        *cell,
        path.name,
        diverged=False,
        eval_loss=summary["eval_loss"],
        bits_per_byte=summary["bits_per_byte"],
        tokens_per_second=median,
        tokens_per_second_quartiles=(low, high),
        optimizer_bytes=summary["optimizer_bytes"],
        peak_memory_bytes=summary.get("peak_memory_bytes"),
        device=summary["device"],
    )


def speed_quartiles(rows: list[Row]) -> tuple[float, float, float]:
    """Return the quartiles of the tokens per second, without the first updates."""
    speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    counted = speeds[WARMUP:] or speeds
    low, median, high = statistics.quantiles(counted, n=4, method="inclusive") if len(counted) > 1 else counted * 3
    return low, median, high


def mark_diverged(path: Path) -> None:
    """Store the last message of a diverged run, so that it is not tried again."""
    write_whole(path / DIVERGED, last_line(path / LOG) + "\n")
