"""Early stopping: the best evaluation so far, and when there has been no better one for long."""

import dataclasses
from collections.abc import Sequence

from train.storage.metrics import Row


def merit(metric: str, value: float) -> float:
    """Return a number that is higher for a better value: losses are better when lower, all other
    metrics when higher.
    """
    return -value if metric.endswith("loss") else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """Stop when a metric has not improved for some evaluations.

    Attributes:
      metric: A name in the rows of evaluations.
      patience: Evaluations to wait for a better one.
    """

    metric: str
    patience: int

    def score(self, evaluation: Row) -> float:
        """Return a number that is higher for better evaluations."""
        return merit(self.metric, evaluation[self.metric])

    def best(self, evaluations: Sequence[Row]) -> Row:
        """Return the first of the best evaluations."""
        return max(evaluations, key=self.score)

    def is_over(self, evaluations: Sequence[Row]) -> bool:
        """Whether the last `patience` evaluations are no better than one before them."""
        scores = list(map(self.score, evaluations))
        return len(scores) > self.patience and scores.index(max(scores)) < len(scores) - self.patience
