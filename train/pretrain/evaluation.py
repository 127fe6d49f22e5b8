"""Loss and bits per byte on held-out text."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Evaluation(NamedTuple):
    """The result of an evaluation on held-out text."""

    eval_loss: float  # mean nats per token
    bits_per_byte: float  # total bits over the total bytes of the same tokens: independent of the tokenizer


@dataclasses.dataclass
class Total:
    """The sums of an evaluation."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def add(self, losses: ArrayLike, size: int) -> None:
        """Add the losses of tokens, and the bytes of their text."""
        losses = np.asarray(losses, np.float64)
        self.nats += float(losses.sum())
        self.tokens += losses.size
        self.bytes += size

    def result(self) -> Evaluation:
        """Return the means."""
        # If every token is the end of a document, there are no bytes to divide by.
        bits = self.nats / (math.log(2) * self.bytes) if self.bytes else math.inf
        return Evaluation(self.nats / self.tokens, bits)


def evaluate(
    losses: Callable[[np.ndarray], ArrayLike], batches: Iterable[np.ndarray], token_bytes: np.ndarray
) -> Evaluation:
    """Evaluate on windows (B, T + 1), given the function that returns the losses (B, T) of a batch.

    The end of a document is predicted too: it contributes its nats, but no bytes.
    """
    total = Total()
    for windows in batches:
        total.add(losses(windows), int(token_bytes[windows[:, 1:]].sum()))
    return total.result()
