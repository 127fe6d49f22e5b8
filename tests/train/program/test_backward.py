"""The trainer's step that updates each layer inside the backward pass, beside the plain one."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LlamaConfig
from tests.util import long_but
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import OPTIMIZERS
from train.config.schedule import ScheduleFlags
from train.program.program import make_program
from train.program.sharding import make_mesh
from train.program.task import LanguageModel, Rows

NETWORK = LlamaConfig(vocab_size=17, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=3)
TASK = LanguageModel(network=NETWORK, batch_size=4, seq_len=8)
SCHEDULE = ScheduleFlags(steps=12, warmup=2)
NAMES = [row.name for row in OPTIMIZERS.values() if row.updates_apart]


def rows(task, step):
    """Tokens of a step, as two documents a row if the task has several."""
    tokens = np.random.default_rng(step).integers(0, 17, (4, 9)).astype(np.int32)
    if not task.is_packed:
        return Rows(tokens)
    documents = np.repeat(np.arange(2, dtype=np.int32)[None], 4, 0).repeat([4, 5], axis=1)
    return Rows(tokens, documents, tokens % 3 > 0)


def losses(task, name, backward, clip=0.1):
    """Losses of a run, and the last state."""
    flags = OptimizerFlags(
        optimizer=name, rank=4, update_proj_gap=5, learning_rate=1e-3, clip=clip, update_in_backward=backward
    )
    program = make_program(make_mesh("", 4), task, flags, SCHEDULE, seed=0)
    state, found = program.draw_state(), []
    for step in range(SCHEDULE.steps):
        state, report = program.train_step(state, rows(task, step))
        found.append((float(report.loss), float(report.learning_rate)))
    return found, state


def assert_same(task, name, **flags):
    (plain, plain_state), (found, state) = (losses(task, name, backward, **flags) for backward in (False, True))
    np.testing.assert_allclose(found, plain, atol=1e-5, rtol=0)
    assert found[-1][0] != found[0][0]
    chex.assert_trees_all_equal_shapes_and_dtypes(state, plain_state)


@pytest.mark.parametrize("name", long_but(["grassjump"], NAMES))
def test_losses_are_those_of_the_plain_step(name):
    assert_same(TASK, name)


@pytest.mark.long
@pytest.mark.parametrize(
    "task",
    [
        dataclasses.replace(TASK, chunk=3),
        dataclasses.replace(TASK, is_packed=True),
        dataclasses.replace(TASK, is_packed=True, chunk=4, network=dataclasses.replace(NETWORK, tied_head=True)),
        dataclasses.replace(TASK, network=dataclasses.replace(NETWORK, qkv_bias=True, num_kv_heads=1)),
    ],
    ids=["chunked", "packed", "tied", "qwen"],
)
def test_losses_of_every_kind_of_model(task):
    assert_same(task, "grassjump", clip=0.0)


@pytest.mark.parametrize("clip", [0.1, pytest.param(0.0, marks=pytest.mark.long)])
def test_a_loss_that_is_not_finite_changes_nothing(clip):
    flags = OptimizerFlags(
        optimizer="grassjump", rank=4, update_proj_gap=5, learning_rate=1e-3, clip=clip, update_in_backward=True
    )
    program = make_program(make_mesh("", 4), TASK, flags, SCHEDULE, seed=0)
    state = program.draw_state()
    spoilt = state._replace(params=state.params | {"lm_head": {"kernel": jnp.full((16, 17), jnp.nan)}})
    before = jax.tree.map(np.array, spoilt)
    after, report = program.train_step(spoilt, rows(TASK, 0))
    assert report.is_skipped
    chex.assert_trees_all_equal(after, before)


def test_bfloat16_weights_are_rounded_stochastically():
    """The same draws; bfloat16 gradients that are added in another order may differ."""
    network = dataclasses.replace(NETWORK, dtype="bfloat16", param_dtype="bfloat16")
    task = dataclasses.replace(TASK, network=network)
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention adds bfloat16 to float32
        (plain, _), (found, state) = (losses(task, "grassjump", backward) for backward in (False, True))
    np.testing.assert_allclose(found, plain, atol=0.01, rtol=0)
    assert found[-1][0] != found[0][0]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
