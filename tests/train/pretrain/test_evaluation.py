"""The evaluation on held-out text, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.pretrain.evaluation import evaluate


def test_bits_per_byte_of_a_known_distribution() -> None:
    # Token k costs k nats; 0 ends a document and has no bytes.
    token_bytes = np.asarray([0, 1, 2, 5])
    batches = [np.asarray([[3, 1, 0, 2], [0, 3, 3, 1]]), np.asarray([[1, 2, 2, 2]])]

    def losses(windows: np.ndarray) -> jax.Array:
        return jnp.asarray(windows[:, 1:], jnp.float32)

    result = evaluate(losses, batches, token_bytes)
    nats, size = (1 + 0 + 2) + (3 + 3 + 1) + (2 + 2 + 2), (1 + 0 + 2) + (5 + 5 + 1) + (2 + 2 + 2)
    assert result.eval_loss == nats / 9
    assert result.bits_per_byte == nats / (math.log(2) * size)


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary() -> None:
    batches = [np.ones((2, 9), np.int32)]
    result = evaluate(lambda _: jnp.full((2, 8), math.log(256)), batches, np.ones(256))
    assert result.bits_per_byte == pytest.approx(8, rel=1e-6)
