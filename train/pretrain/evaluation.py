"""Loss and bits per byte on held-out text."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Evaluation(NamedTuple):
    """The result of an evaluation on held-out text."""

    eval_loss: float  # mean nats per token
    bits_per_byte: float  # total bits over the total bytes of the same tokens: independent of the tokenizer


def evaluate(
    losses: Callable[[np.ndarray], ArrayLike], batches: Iterable[np.ndarray], token_bytes: np.ndarray
) -> Evaluation:
    """Evaluate on windows (B, T + 1), given the function that returns the losses (B, T) of a batch.

    The end of a document is predicted too: it contributes its nats, but no bytes.
    """
    nats, tokens, size = 0.0, 0, 0
    for windows in batches:
        nats += float(np.asarray(losses(windows), np.float64).sum())
        tokens += windows[:, 1:].size
        size += int(token_bytes[windows[:, 1:]].sum())
    # If every token is the end of a document, there are no bytes to divide by.
    return Evaluation(nats / tokens, nats / (math.log(2) * size) if size else math.inf)
