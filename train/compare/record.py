"""The files of a comparison: its settings, and the outcome of each run.

compare.json   settings and text of the comparison, and the outcome of all runs
compare.md     the table: the best run of each optimizer, and of each of its swept settings
compare.png    held-out losses of these runs, and those of a sweep over its learning rates
OPTIMIZER[-SETTING=VALUE]-lrLR-scaleSCALE-seedSEED/   a run of `pretrain` or `finetune`, with
               settings.json (its --config), log.txt (its output), and diverged.txt if it diverged
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from train.compare.grid import Cell
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

    cell: Cell
    diverged: bool
    scores: Mapping[str, float] = MappingProxyType({})  # the metrics of the comparison
    tokens_per_second: tuple[float, float, float] | None = None  # the quartiles over the updates
    optimizer_bytes: int | None = None
    seconds: float | None = None  # of its updates
    peak_memory_bytes: int | None = None  # if the backend reports it
    device: str | None = None

    def __str__(self) -> str:
        return "diverged" if self.diverged else ", ".join(f"{plain(x)} {value:.4f}" for x, value in self.scores.items())

    def as_json(self) -> dict[str, Any]:
        """Return what compare.json has of it."""
        content = {
            "optimizer": self.cell.optimizer,
            "settings": dict(self.cell.own),
            **{name: getattr(self.cell, name) for name in ("learning_rate", "scale", "seed", "folder")},
            **self._asdict(),
            **self.scores,
        }
        if self.tokens_per_second:
            low, content["tokens_per_second"], high = self.tokens_per_second
            content["tokens_per_second_quartiles"] = low, high
        return {name: value for name, value in content.items() if name not in ("cell", "scores")}


def plain(name: str) -> str:
    """Return the name of a metric as people write it."""
    return name.replace("_", " ")


def stored_record(folder: Path) -> Record | None:
    """Return the record of the comparison in the folder; None if the folder is empty or missing."""
    if not folder.is_dir() or all(path.name == ".lock" for path in folder.iterdir()):
        return None
    try:
        content = json.loads((folder / COMPARISON).read_text())
        return Record(content["settings"], content["data_fingerprint"])
    except (FileNotFoundError, ValueError, RecursionError, LookupError, TypeError):
        raise UserError(
            f"--run-dir {folder} is not empty, and contains no comparison that this version can read: "
            "choose another folder."
        ) from None


def result_of(cell: Cell, path: Path, metrics: Sequence[str]) -> Result | None:
    """Return the outcome of a run, or None if it has not finished.

    A run with --patience counts with its best evaluation, and any other with its last.
    """
    if (path / DIVERGED).exists():
        return Result(cell, diverged=True)
    folder = RunFolder(path)
    if (summary := folder.results()) is None:
        return None
    rows = read_rows(folder.metrics)
    return Result(
        cell,
        diverged=False,
        scores={name: summary.get(f"best_{name}", summary[name]) for name in metrics},
        tokens_per_second=speed_quartiles(rows),
        seconds=max((row["seconds"] for row in rows if "seconds" in row), default=None),
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
