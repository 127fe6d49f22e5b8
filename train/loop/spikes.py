"""Which updates are skipped: how many in a row may be, and the loss above which one is a spike."""

import collections
import math
import statistics
from collections.abc import Sequence

from train.storage.metrics import Row

WINDOW = 100  # losses over which the median runs
FEWEST = 20  # losses before there is a usual one


class Skips:
    """Counts skipped updates, and knows the usual loss.

    Everything follows from the rows of the updates so far, so a resumed run skips the same ones.

    Attributes:
      total: Skipped updates so far.
      in_a_row: How many of the last updates were all skipped.
    """

    def __init__(self, factor: float, updates: Sequence[Row]) -> None:
        """Take the rows of all updates so far, skipped ones included; `factor` times the median of
        the losses is a spike, or nothing if it is 0.
        """
        self.factor = factor
        self.total, self.in_a_row, self._count = 0, 0, 0
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW + 1)
        for row in updates:
            self.add(row.get("loss"))

    def add(self, loss: float | None) -> None:
        """Take an update: its loss, or None if it was skipped."""
        if loss is None:
            self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
        else:
            self.in_a_row = 0
        self._count += 1
        self._losses.append(math.nan if loss is None else loss)

    def highest(self, step: int) -> float:
        """Return the highest loss of update `step` + 1 that is no spike.

        The loss of update `step` does not count, as that update may still be running.
        """
        losses = list(self._losses)[: -1 if self._count == step else None][-WINDOW:]
        usual = [loss for loss in losses if math.isfinite(loss)]
        return self.factor * statistics.median(usual) if self.factor and len(usual) >= FEWEST else math.inf


def reason(loss: float, limit: float) -> str:
    """Say why an update was skipped, if a loss above `limit` is a spike."""
    if not math.isfinite(loss):
        return "its loss is not finite"
    return f"its loss {loss:.4f} is a spike" if loss > limit else "its gradient is not finite"
