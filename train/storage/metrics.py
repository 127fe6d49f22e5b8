"""The metrics of a run: rows of metrics.jsonl, and their summary and plot at the end.

A row has the training time so far, without compilation, evaluations, checkpoints and interruptions.
Updates that a killed run has to repeat count once.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.system.files import make_durable, write_whole

Row = dict[str, Any]


class Metrics:
    """The rows of metrics.jsonl, in memory and on disk; each row is written when it is added."""

    def __init__(
        self,
        path: Path | None,
        step: int,
        *,
        tokens: int,
        loss_unit: str,
        watch: Callable[[Row], None] = lambda _: None,
    ) -> None:
        """Open the file and drop the rows after `step`, where the run resumes.

        Args:
          path: The file; None discards all rows.
          step: The updates that the run has made.
          tokens: Tokens of an update.
          loss_unit: The unit of the losses.
          watch: Is called with every row, those of the file first.
        """
        self.rows: list[Row] = []
        self.tokens, self.loss_unit, self._watch = tokens, loss_unit, watch
        self._file: TextIO | None = None
        if path is not None:
            self.rows = list(completed((row for row in read_rows(path) if row["step"] <= step), tokens))
            write_whole(path, "".join(map(_line, self.rows)))
            self._file = path.open("a")
            for row in self.rows:
                watch(row)
        self.seconds: float = self.rows[-1]["seconds"] if self.rows else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add_update(self, step: int, loss: float, lr: float, seconds: float, **more: float) -> Row:
        """Add the row of the update that led to `step`, which took `seconds`, and return it."""
        self.seconds += seconds
        row = {"step": step, "loss": loss, "lr": lr, "tokens_per_second": self.tokens / seconds}
        return self._add(row | {"seconds": self.seconds, "tokens": step * self.tokens} | more)

    def add_evaluation(self, step: int, evaluation: Mapping[str, float]) -> None:
        """Add the row of the evaluation at `step`."""
        self._add({"step": step, **evaluation, "seconds": self.seconds, "tokens": step * self.tokens})

    def _add(self, row: Row) -> Row:
        if self._file:
            self.rows.append(row)
            self._file.write(_line(row))
            self._file.flush()
            self._watch(row)
        return row

    def make_durable(self) -> None:
        """Flush all rows to disk: a checkpoint must not become visible before them."""
        if self._file:
            make_durable(self._file.fileno())

    def is_evaluated(self, step: int) -> bool:
        """Whether there is an evaluation at `step`."""
        return any(row["step"] == step for row in self.evaluations)

    @property
    def updates(self) -> list[Row]:
        """The rows of updates."""
        return updates_of(self.rows)

    @property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations."""
        return evaluations_of(self.rows)

    def summary(self) -> Row:
        """Return the last evaluation, the first and last training loss, and the overall speed."""
        last, updates = self.evaluations[-1], self.updates
        return {
            "steps": updates[-1]["step"],
            **{name: value for name, value in last.items() if name != "step"},
            "first_train_loss": updates[0]["loss"],
            "last_train_loss": updates[-1]["loss"],
            "tokens_per_second": updates[-1]["tokens"] / updates[-1]["seconds"],
        }


def updates_of(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of updates."""
    return [row for row in rows if "loss" in row]


def evaluations_of(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of evaluations."""
    return [row for row in rows if "eval_loss" in row]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, up to a partial last row that a killed run may have left."""
    rows: list[Row] = []
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def completed(rows: Iterable[Row], tokens: int) -> Iterator[Row]:
    """Yield the rows with `seconds` and `tokens`, which older versions did not write.

    `tokens` is the number of an update.
    """
    seconds = 0.0
    for row in rows:
        if "loss" in row:
            seconds += tokens / row["tokens_per_second"]
        seconds = row.get("seconds", seconds)
        yield {**row, "seconds": seconds, "tokens": row["step"] * tokens}


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def plot(metrics: Metrics, path: Path) -> None:
    """Draw the loss curve."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel=f"step (of {metrics.tokens:,} tokens)", ylabel=f"loss ({metrics.loss_unit})")
    updates, evaluations = metrics.updates, metrics.evaluations
    axes.plot([row["step"] for row in updates], [row["loss"] for row in updates], label="training")
    steps, losses = zip(*((row["step"], row["eval_loss"]) for row in evaluations), strict=True)
    axes.plot(steps, losses, "o", label="held out", color="black", markersize=5)
    whole_steps(axes)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def whole_steps(axes: Axes) -> None:
    """Mark whole numbers on the axis of steps, however few they are."""
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_whole(path, image.getvalue())
