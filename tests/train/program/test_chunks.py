"""When logits are whole, and how many exist at once."""

import dataclasses

import jax
import numpy as np
import pytest

from models import CONFIGS, LlamaConfig
from tests.util import long_but
from train.config.run import LogitsName
from train.program.chunks import TOKENS, chunk_of
from train.program.task import LanguageModel, Rows

NETWORK = LlamaConfig(vocab_size=4096, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=2, init_std=0.3)
TASK = LanguageModel(network=NETWORK, batch_size=4, seq_len=32)


@pytest.mark.parametrize(
    ("choice", "vocab_size", "rows", "seq_len", "chunk"),
    [
        ("auto", 15_999, 8, 256, None),
        ("auto", 16_000, 8, 256, 128),
        ("whole", 32_000, 8, 256, None),
        ("chunked", 300, 8, 256, 128),
        ("chunked", 300, 8, 200, 100),  # two equal chunks
        ("chunked", 300, 1, 3000, 1000),
        ("chunked", 300, 1, 100, 100),
        ("chunked", 300, 5000, 100, 1),
    ],
)
def test_a_chunk_has_a_thousand_tokens_at_most(
    choice: LogitsName, vocab_size: int, rows: int, seq_len: int, chunk: int | None
) -> None:
    assert chunk_of(choice, vocab_size, rows, seq_len) == chunk
    assert chunk is None or rows * chunk <= max(TOKENS, rows)


def test_large_vocabularies_are_those_of_all_but_tiny() -> None:
    assert [name for name, c in CONFIGS.items() if chunk_of("auto", c.vocab_size, 1, 256) is None] == ["tiny"]


@pytest.mark.parametrize("is_tied", long_but([True], [False, True]))
def test_a_loss_in_chunks_is_the_loss(is_tied: bool) -> None:
    """Loss, gradients and predictions, of rows of several documents, padding and all."""
    whole = dataclasses.replace(TASK, network=dataclasses.replace(NETWORK, tied_head=is_tied), is_packed=True)
    chunked = dataclasses.replace(whole, chunk=5)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4096, (4, 33)).astype(np.int32)
    batch = Rows(tokens, np.sort(rng.integers(0, 4, (4, 33)), axis=1).astype(np.int32), rng.random((4, 33)) < 0.5)
    params = jax.jit(lambda: whole.draw(0))()
    expected, found = (jax.jit(jax.value_and_grad(task.loss))(params, batch) for task in (whole, chunked))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=5e-6 * float(np.abs(y).max()))
    np.testing.assert_allclose(
        *(jax.jit(task.predict)(params, batch) for task in (chunked, whole)), rtol=1e-5, atol=1e-6
    )


def test_neither_a_loss_nor_an_evaluation_has_the_memory_of_whole_logits() -> None:
    logits = 4 * TASK.batch_size * TASK.seq_len * NETWORK.vocab_size
    params = jax.eval_shape(lambda: TASK.draw(0))

    def temporaries(task: LanguageModel) -> list[int]:
        programs = (jax.jit(f).lower(params, task.batch).compile() for f in (jax.grad(task.loss), task.predict))
        return [int(program.memory_analysis().temp_size_in_bytes) for program in programs]

    whole, chunked = temporaries(TASK), temporaries(dataclasses.replace(TASK, chunk=2))
    for more, less in zip(whole, chunked, strict=True):
        assert more - less > 0.8 * logits
