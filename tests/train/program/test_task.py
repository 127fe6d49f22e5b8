"""Losses of a language model, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LlamaConfig
from train.program.task import LanguageModel, Params, Rows

NETWORK = LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=2, init_std=0.3)
TASK = LanguageModel(network=NETWORK, batch_size=2, seq_len=8)
TOKENS = np.arange(18, dtype=np.int32).reshape(2, 9) % 11
predict = jax.jit(TASK.predict)


@pytest.fixture(scope="module")
def params() -> Params:
    return jax.jit(lambda: TASK.draw(0))()


def test_losses_are_the_cross_entropy_of_the_next_token(params: Params) -> None:
    uniform = params | {"lm_head": {"kernel": jnp.zeros_like(params["lm_head"]["kernel"])}}
    losses = predict(uniform, Rows(TOKENS))
    assert losses.shape == (2, 8)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, math.log(11), rtol=1e-6)


def test_packed_texts_have_the_losses_that_they_have_alone(params: Params) -> None:
    """Texts of 4 and 5 tokens in the first row; 6 and 2, and one of padding, in the second. The
    prompt of the second text, two tokens, is no target.
    """
    documents = np.asarray([[0] * 4 + [1] * 5, [0] * 6 + [1] * 2 + [2]], np.int32)
    is_target = np.zeros((2, 9), bool)
    is_target[:, 1:] = documents[:, 1:] == documents[:, :-1]
    is_target[0, 4:6] = False
    packed = Rows(TOKENS, documents, is_target)
    losses, total, count = predict(params, packed), 0.0, 0
    for row, start, stop, prompt in ((0, 0, 4, 1), (0, 4, 9, 2), (1, 0, 6, 1), (1, 6, 8, 1)):
        alone = predict(params, Rows(TOKENS[row : row + 1, start:stop]))[0, prompt - 1 :]
        np.testing.assert_allclose(losses[row, start + prompt - 1 : stop - 1], alone, rtol=1e-5)
        total, count = total + float(alone.sum()), count + len(alone)
    assert count == is_target.sum()
    np.testing.assert_allclose(jax.jit(TASK.loss)(params, packed), total / count, rtol=1e-6)


def test_a_batch_without_targets_has_no_loss_and_no_gradient(params: Params) -> None:
    nothing = Rows(TOKENS, np.zeros((2, 9), np.int32), np.zeros((2, 9), bool))
    loss, grads = jax.jit(jax.value_and_grad(TASK.loss))(params, nothing)
    assert loss == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
