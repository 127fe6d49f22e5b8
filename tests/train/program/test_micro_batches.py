"""Gradients of a batch in parts: those of the whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import EncoderConfig, LlamaConfig
from models.blocks import ANYWHERE
from train.program.labelling import Labelling, Texts
from train.program.micro_batches import accumulated, mapped, split
from train.program.task import LanguageModel, Rows, Task

B, T = 6, 8
# The same sums in another order: roundings of 6e-8 through two layers, relative to the largest
# entry of all gradients. (Those of the biases of keys are zero but for roundings.)
SAME32 = 2e-6
SIZES = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "num_layers": 2, "init_std": 0.3}
LANGUAGE = LanguageModel(network=LlamaConfig(**SIZES), batch_size=B, seq_len=T, is_packed=True)
LABELS = Labelling(network=EncoderConfig(**SIZES, max_positions=T, num_labels=3), batch_size=B, seq_len=T)
TOKENS = np.random.default_rng(0).integers(0, 11, (B, T + 1)).astype(np.int32)


def packed() -> Rows:
    """Rows whose parts have very different numbers of targets; two rows have none."""
    documents = np.repeat(np.arange(3, dtype=np.int32)[None], 3, axis=1).repeat(B, axis=0)
    is_target = np.arange(T + 1)[None] < np.asarray([9, 7, 5, 2, 0, 0])[:, None]
    return Rows(TOKENS, documents, is_target)


def texts() -> Texts:
    mask = np.arange(T)[None] < np.asarray([8, 3, 5, 8, 2, 4])[:, None]
    return Texts(TOKENS[:, :T], mask, np.zeros((B, T), np.int32), np.arange(B, dtype=np.int32) % 3)


@pytest.mark.parametrize(
    ("task", "batch", "count"),
    [(LANGUAGE, packed(), 3), (dataclasses.replace(LANGUAGE, chunk=3), packed(), 2), (LABELS, texts(), 3)],
)
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(task: Task, batch: Rows, count: int) -> None:
    """Of a mean over all targets: the mean of the means of parts would weigh a target of a short
    part more.
    """
    params = jax.jit(lambda: task.draw(0))()
    value, grads = jax.jit(jax.value_and_grad(task.loss))(params, batch)
    parted, summed = jax.jit(accumulated(task.weight, count, ANYWHERE)(task.loss))(params, batch)
    np.testing.assert_allclose(parted, value, rtol=1e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads))
    for actual, expected in zip(jax.tree.leaves(summed), jax.tree.leaves(grads), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=0, atol=SAME32 * largest)
    predicted = jax.jit(mapped(task.predict, count, ANYWHERE))(params, batch)
    np.testing.assert_allclose(predicted, jax.jit(task.predict)(params, batch), rtol=1e-5, atol=1e-6)


def test_sums_of_narrow_gradients_are_float32() -> None:
    """256 parts of gradient 1 add up to 256 + 1 and not to 256, where bfloat16 stops counting."""
    count = 257

    def loss(params: dict[str, jax.Array], batch: jax.Array) -> jax.Array:
        return (params["w"].astype(jnp.float32) * batch).sum()

    value_and_grad = accumulated(lambda batch: jnp.asarray(1.0), count, ANYWHERE)(loss)
    _, grads = value_and_grad({"w": jnp.ones((), jnp.bfloat16)}, jnp.ones(count).at[0].set(3.0))
    assert grads["w"].dtype == jnp.bfloat16
    assert grads["w"] == 260  # 259, rounded once


def test_each_group_of_devices_keeps_its_rows() -> None:
    """Two groups hold rows 0 to 5 and 6 to 11; each part has two rows of both, in order."""
    place = dataclasses.replace(ANYWHERE, groups=2)
    parts = split({"x": jnp.arange(12)}, 3, place)["x"]
    np.testing.assert_array_equal(parts, [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]])
    same = mapped(lambda _, batch: batch["x"], 3, place)(None, {"x": jnp.arange(12)})
    np.testing.assert_array_equal(same, jnp.arange(12))


def test_activations_take_the_memory_of_a_part() -> None:
    task = LanguageModel(network=LANGUAGE.network, batch_size=16, seq_len=64)
    params, batch = jax.eval_shape(lambda: task.draw(0)), task.batch

    def temporaries(gradient: object) -> int:
        program = jax.jit(gradient).lower(params, batch).compile()  # type: ignore[arg-type]
        return int(program.memory_analysis().temp_size_in_bytes)

    whole = temporaries(jax.value_and_grad(task.loss))
    assert temporaries(accumulated(task.weight, 8, ANYWHERE)(task.loss)) < whole / 4
