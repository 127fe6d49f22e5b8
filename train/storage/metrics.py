"""The metrics of a run: rows of metrics.jsonl, and their summary and plot at the end.

A row has the training time so far, without compilation, evaluations, checkpoints and interruptions.
Updates that a killed run has to repeat count once.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.config.run import UserError
from train.system.files import as_json, make_durable, write_whole

Row = dict[str, Any]
DIVERGED, SKIPPED = "diverged", "skipped"  # in the rows of the end of a run, and of updates that were skipped


class RowFile:
    """A file of rows, each written when it is added, in one process; nothing in the others."""

    def __init__(self, path: Path | None, rows: Iterable[Row]) -> None:
        """Begin the file anew with these rows; None is no file."""
        self._file: io.FileIO | None = None
        if path is not None:
            write_whole(path, "".join(map(_line, rows)))
            self._file = path.open("ab", buffering=0)  # or closing it would try to write again what did not fit

    def __bool__(self) -> bool:
        return self._file is not None

    def add(self, row: Row) -> None:
        """Write a row."""
        if self._file:
            line = memoryview(_line(row).encode())
            while line:  # the system may write a part, for example of what fits
                line = line[self._file.write(line) :]

    def make_durable(self) -> None:
        """Flush all rows to disk: a checkpoint must not become visible before them."""
        if self._file:
            make_durable(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


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
        if path is not None:
            kept = (row for row in read_rows(path) if row["step"] <= step and DIVERGED not in row)
            self.rows = list(completed(kept, tokens))
            self._refuse_missing(path, step)
        self._file = RowFile(path, self.rows)
        for row in self.rows:
            watch(row)
        self.seconds: float = self.rows[-1]["seconds"] if self.rows else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_update(self, step: int, loss: float, lr: float, seconds: float, **more: float) -> Row:
        """Add the row of the update that led to `step`, which took `seconds`, and return it."""
        self.seconds += seconds
        row = {"step": step, "loss": loss, "lr": lr, "tokens_per_second": self.tokens / seconds}
        return self._add(row | {"seconds": self.seconds, "tokens": step * self.tokens} | more)

    def add_evaluation(self, step: int, evaluation: Mapping[str, float]) -> None:
        """Add the row of the evaluation at `step`."""
        self._add({"step": step, **evaluation, "seconds": self.seconds, "tokens": step * self.tokens})

    def add_skipped(self, step: int, loss: float, lr: float, seconds: float, total: int) -> None:
        """Add the row of an update that took `seconds` and was skipped; `total` were so far."""
        self.seconds += seconds
        row = {"step": step, SKIPPED: total, "skipped_loss": loss, "lr": lr}
        self._add(row | {"seconds": self.seconds, "tokens": step * self.tokens})

    def add_diverged(self, step: int, what: str) -> None:
        """Add the row of the end of a run: what is not finite."""
        self._write({"step": step, DIVERGED: what})

    def _add(self, row: Row) -> Row:
        self._write(row)
        if self._file:
            self._watch(row)
        return row

    def _write(self, row: Row) -> None:
        if self._file:
            self.rows.append(row)
            self._file.add(row)

    def _refuse_missing(self, path: Path, step: int) -> None:
        """Refuse to resume where rows are missing."""
        steps = [row["step"] for row in self.attempts]
        if steps != list(range(1, step + 1)):
            at = next((t for t, found in enumerate(steps, 1) if t != found), len(steps) + 1)
            raise UserError(
                f"{path} has no row of update {at}, but the run resumes from update {step}: restore the file, or start "
                "a new run in another --run-dir."
            )

    def make_durable(self) -> None:
        """Flush all rows to disk: a checkpoint must not become visible before them."""
        self._file.make_durable()

    def is_evaluated(self, step: int) -> bool:
        """Whether there is an evaluation at `step`."""
        return any(row["step"] == step for row in self.evaluations)

    @property
    def updates(self) -> list[Row]:
        """The rows of updates."""
        return updates_of(self.rows)

    @property
    def attempts(self) -> list[Row]:
        """The rows of updates, those that were skipped included."""
        return list(filter(is_update, self.rows))

    @property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations."""
        return evaluations_of(self.rows)

    def summary(self) -> Row:
        """Return the last evaluation, the first and last training loss, and the overall speed."""
        last, updates = self.evaluations[-1], self.updates
        return {
            "steps": self.attempts[-1]["step"],
            "skipped_updates": len(self.attempts) - len(updates),
            **{name: value for name, value in last.items() if name != "step"},
            "first_train_loss": updates[0]["loss"],
            "last_train_loss": updates[-1]["loss"],
            "tokens_per_second": updates[-1]["tokens"] / updates[-1]["seconds"],
        }


def is_update(row: Row) -> bool:
    """Whether a row is of an update, one that was skipped included."""
    return "loss" in row or SKIPPED in row


def updates_of(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of updates, without those that were skipped."""
    return [row for row in rows if "loss" in row]


def evaluations_of(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of evaluations."""
    return [row for row in rows if "eval_loss" in row]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, up to a line that is none: half a row that a killed run has left,
    or a damaged one. A row is an object with a whole number as its step.
    """
    rows: list[Row] = []
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not (isinstance(row, dict) and type(row.get("step")) is int):
                break
            rows.append(row)
    return rows


def completed(rows: Iterable[Row], tokens: int) -> Iterator[Row]:
    """Yield the rows with `seconds` and `tokens`, which older versions did not write.

    `tokens` is the number of an update.
    """
    seconds = 0.0
    for row in rows:
        if "loss" in row and (speed := row.get("tokens_per_second")):
            seconds += tokens / speed
        seconds = row.get("seconds", seconds)
        yield {**row, "seconds": seconds, "tokens": row["step"] * tokens}


def _line(row: Row) -> str:
    return as_json(row, indent=None)


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
