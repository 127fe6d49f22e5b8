"""The evaluation on held-out text, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.pretrain.evaluation import evaluate

WINDOWS = np.arange(18, dtype=np.int32).reshape(2, 9) % 11


def test_bits_per_byte_of_a_known_distribution() -> None:
    # Token k costs k nats; 0 ends a document and has no bytes.
    token_bytes = np.asarray([0, 1, 2, 5])
    batches = [np.asarray([[3, 1, 0, 2], [0, 3, 3, 1]]), np.asarray([[1, 2, 2, 2]])]

    def losses(_: object, windows: np.ndarray) -> jax.Array:
        return jnp.asarray(windows[:, 1:], jnp.float32)

    result = evaluate(losses, None, batches, token_bytes, list)
    nats, size = (1 + 0 + 2) + (3 + 3 + 1) + (2 + 2 + 2), (1 + 0 + 2) + (5 + 5 + 1) + (2 + 2 + 2)
    assert result.eval_loss == nats / 9
    assert result.bits_per_byte == nats / (math.log(2) * size)


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary() -> None:
    batches = [np.ones((2, 9), np.int32)]
    result = evaluate(lambda *_: jnp.full((2, 8), math.log(256)), None, batches, np.ones(256), list)
    assert result.bits_per_byte == pytest.approx(8, rel=1e-6)


def test_an_evaluation_can_be_stopped_between_batches() -> None:
    seen = []

    def poll() -> None:
        if len(seen) == 2:
            raise InterruptedError

    def losses(_: object, windows: np.ndarray) -> jax.Array:
        seen.append(windows)
        return jnp.zeros((2, 8))

    with pytest.raises(InterruptedError):
        evaluate(losses, None, [WINDOWS] * 9, np.ones(11), poll)
    assert len(seen) == 2
