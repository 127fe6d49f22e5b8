"""The measurements of the subspaces of a run, in diagnostics.jsonl.

A row is of the update to `step`, measured before that update: its gradient is computed once more,
so that the update itself is the same with and without. A run that resumes measures again what came
after its checkpoint.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from train.program.step import TrainState
from train.program.task import Batch
from train.storage.metrics import RowFile, read_rows

# Updates from one measurement to the next, at least. One costs a gradient, an update and some
# products: no more than a tenth of the time of a run, whatever the interval of the refreshes.
FEWEST = 20


class Diagnosis:
    """Measures the subspaces at refreshes."""

    def __init__(
        self, measure: Callable[[TrainState, Batch], Any], update_proj_gap: int, path: Path | None, step: int
    ) -> None:
        """Open the file, and drop the rows after `step`, where the run resumes.

        Args:
          measure: Returns quantity -> type of layer -> array with the layers first.
          update_proj_gap: Updates from one refresh to the next.
          path: The file; None discards all rows.
          step: The updates that the run has made.
        """
        self._measure, self._every = measure, update_proj_gap * -(-FEWEST // update_proj_gap)
        self._file = RowFile(path, [row for row in read_rows(path) if row["step"] <= step] if path else [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_due(self, updates: int) -> bool:
        """Whether the update after this many, without those that were skipped, is measured."""
        return updates % self._every == 0

    def may_be_due(self, updates: int) -> bool:
        """The same, if the last of the updates may still be skipped."""
        return self.is_due(updates) or self.is_due(updates - 1)

    def measure(self, state: TrainState, batch: Batch, step: int, **more: float) -> None:
        """Measure the update to `step`, from the state before it; its row has `more`."""
        found = jax.tree.map(_digits, jax.device_get(self._measure(state, batch)))
        self._file.add({"step": step, **more, **found})

    def make_durable(self) -> None:
        """Flush all rows to disk: a checkpoint must not become visible before them."""
        self._file.make_durable()


def _digits(x: np.ndarray) -> list[Any]:
    """Return an array as lists, with the six digits that a measurement in float32 has."""
    rounded: list[Any] = np.vectorize(lambda value: float(f"{value:.6g}"), otypes=[float])(x).tolist()
    return rounded
