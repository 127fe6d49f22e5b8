"""The metrics of a run: rows of metrics.jsonl, and their summary and plot at the end."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from matplotlib.figure import Figure

from train.config.run import UserError
from train.system.files import as_json, make_durable, write_whole

Row = dict[str, Any]
DIVERGED, SKIPPED = "diverged", "skipped"  # in the rows of the end of a run, and of updates that were skipped


class Metrics:
    """The rows of metrics.jsonl, in memory and on disk; each row is written when it is added."""

    def __init__(self, path: Path | None, step: int) -> None:
        """Open the file and drop the rows after `step`, where the run resumes. If `path` is None,
        rows are discarded.
        """
        self.rows: list[Row] = []
        self._file: io.FileIO | None = None
        if path is not None:
            self.rows = [row for row in read_rows(path) if row["step"] <= step and DIVERGED not in row]
            self._refuse_missing(path, step)
            write_whole(path, "".join(map(_line, self.rows)))
            self._file = path.open("ab", buffering=0)  # or closing it would try to write again what did not fit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add_update(self, step: int, loss: float, lr: float, tokens_per_second: float) -> None:
        """Add the row of the update that led to `step`."""
        self._add({"step": step, "loss": loss, "lr": lr, "tokens_per_second": tokens_per_second})

    def add_evaluation(self, step: int, evaluation: Mapping[str, float]) -> None:
        """Add the row of the evaluation at `step`."""
        self._add({"step": step, **evaluation})

    def add_skipped(self, step: int, lr: float, loss: float, total: int) -> None:
        """Add the row of an update that was skipped; `total` have been so far."""
        self._add({"step": step, SKIPPED: total, "skipped_loss": loss, "lr": lr})

    def add_diverged(self, step: int, what: str) -> None:
        """Add the row of the end of a run whose loss, state or evaluation is not finite."""
        self._add({"step": step, DIVERGED: what})

    def _add(self, row: Row) -> None:
        if self._file:
            self.rows.append(row)
            line = memoryview(_line(row).encode())
            while line:  # the system may write a part, for example of what fits
                line = line[self._file.write(line) :]

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
        if self._file:
            make_durable(self._file.fileno())

    def is_evaluated(self, step: int) -> bool:
        """Whether there is an evaluation at `step`."""
        return any(row["step"] == step for row in self.evaluations)

    @property
    def updates(self) -> list[Row]:
        """The rows of updates."""
        return [row for row in self.rows if "loss" in row]

    @property
    def attempts(self) -> list[Row]:
        """The rows of updates, those that were skipped included."""
        return [row for row in self.rows if "loss" in row or SKIPPED in row]

    @property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations."""
        return [row for row in self.rows if "eval_loss" in row]

    def summary(self) -> Row:
        """Return the last evaluation, the first and last training loss, and the overall speed."""
        last, updates = self.evaluations[-1], self.updates
        # All updates have the same number of tokens, so the overall speed is their harmonic mean.
        seconds_per_token = sum(1 / row["tokens_per_second"] for row in updates) / len(updates)
        return {
            "steps": self.attempts[-1]["step"],
            "skipped_updates": len(self.attempts) - len(updates),
            **{name: value for name, value in last.items() if name != "step"},
            "first_train_loss": updates[0]["loss"],
            "last_train_loss": updates[-1]["loss"],
            "tokens_per_second": 1 / seconds_per_token,
        }


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


def _line(row: Row) -> str:
    return as_json(row, indent=None)


def plot(metrics: Metrics, path: Path) -> None:
    """Draw the loss curve."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    updates, evaluations = metrics.updates, metrics.evaluations
    axes.plot([row["step"] for row in updates], [row["loss"] for row in updates], label="training")
    steps, losses = zip(*((row["step"], row["eval_loss"]) for row in evaluations), strict=True)
    axes.plot(steps, losses, "o", label="held out")
    axes.legend()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_whole(path, image.getvalue())
