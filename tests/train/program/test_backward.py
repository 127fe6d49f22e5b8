"""The trainer's step that updates each layer inside the backward pass, beside the plain one."""

import dataclasses
import functools

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
from train.storage.checkpoint import Checkpoints

NETWORK = LlamaConfig(vocab_size=17, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=3)
NARROW = dataclasses.replace(NETWORK, dtype="bfloat16", param_dtype="bfloat16")
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


@functools.cache
def program_of(task, name="grassjump", **flags):
    """The programs of a run on one device."""
    flags = OptimizerFlags(optimizer=name, rank=4, update_proj_gap=5, learning_rate=1e-3, **flags)
    return make_program(make_mesh("", 4), task, flags, SCHEDULE, seed=0)


def losses(task, name, backward, clip=0.1, **flags):
    """Losses of a run, and the last state."""
    flags = flags if backward else {}
    program = program_of(task, name, clip=clip, update_in_backward=backward, **flags)
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
def test_losses_with_the_inputs_of_every_third_layer():
    assert_same(TASK, "grassjump", keep_every=3)


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
    program = program_of(TASK, clip=clip, update_in_backward=True)
    state = program.draw_state()
    spoilt = state._replace(params=state.params | {"lm_head": {"kernel": jnp.full((16, 17), jnp.nan)}})
    before = jax.tree.map(np.array, spoilt)
    after, report = program.train_step(spoilt, rows(TASK, 0))
    assert report.is_skipped
    chex.assert_trees_all_equal(after, before)


@pytest.mark.long
@pytest.mark.parametrize("chunk", [None, 3])
def test_bfloat16_weights_are_rounded_stochastically(chunk):
    """The same draws; bfloat16 gradients that are added in another order may differ."""
    task = dataclasses.replace(TASK, network=NARROW, chunk=chunk)
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention adds bfloat16 to float32
        (plain, _), (found, state) = (losses(task, "grassjump", backward) for backward in (False, True))
    np.testing.assert_allclose(found, plain, atol=0.01, rtol=0)
    assert found[-1][0] != found[0][0]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("backward", "network"), [(True, NARROW), (False, NARROW), (True, NETWORK)])
def test_of_narrow_weights_the_gradient_of_the_head_is_found_by_slices(backward, network):
    """The plain step, and a step of float32 weights, sum it over chunks in this shape."""
    task = dataclasses.replace(TASK, network=network, chunk=4)
    program = program_of(task, "adamw", update_in_backward=backward)
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention adds bfloat16 to float32
        text = program.train_step.lower(program.state, program.batch).as_text()
    assert ("tensor<1x16x17xf32>" in text) == (not backward or network == NETWORK)


# --- clips ----------------------------------------------------------------------------------------


def updated(program, state, steps):
    """The state after more steps, and their losses."""
    found = []
    for step in steps:
        state, report = program.train_step(state, rows(TASK, step))
        found.append(float(report.loss))
    return state, found


def test_a_run_clipped_by_the_last_norm_resumes_bit_for_bit(tmp_path):
    """The norm is in the checkpoint. Without it the losses are others."""
    program = program_of(TASK, "adamw", clip=0.05, update_in_backward=True, clip_by="previous")
    half, _ = updated(program, program.draw_state(), range(3))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, half)
        checkpoints.finish()
        restored = checkpoints.restore(3, program.state)
    (norm,) = (x for path, x in jax.tree.leaves_with_path(half.opt_state) if "previous_norm" in str(path))
    assert norm > 2 * 0.05
    without = half._replace(opt_state=(half.opt_state[0]._replace(previous_norm=jnp.zeros(())), *half.opt_state[1:]))
    without = jax.tree.map(jnp.copy, without)
    (expected, found), (after, again), (_, others) = (
        updated(program, state, range(3, 6)) for state in (half, restored, without)
    )
    assert again == found != others
    chex.assert_trees_all_equal(after, expected)


@pytest.mark.parametrize("clip_by", long_but(["previous"], ["previous", "layer"]))
def test_a_clip_that_knows_no_global_norm_still_skips_a_loss_that_is_not_finite(clip_by):
    program = program_of(TASK, "adamw", clip=0.05, update_in_backward=True, clip_by=clip_by)
    state, _ = updated(program, program.draw_state(), range(1))
    spoilt = state._replace(params=state.params | {"lm_head": {"kernel": jnp.full((16, 17), jnp.nan)}})
    before = jax.tree.map(np.array, spoilt)
    after, report = program.train_step(spoilt, rows(TASK, 1))
    assert report.is_skipped
    chex.assert_trees_all_equal(after, before)  # with the norm of the update before


# --- saved inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "keep_every"), long_but([("bfloat16", 3)], [("float32", 3), ("bfloat16", 1), ("bfloat16", 3)])
)
def test_the_saved_inputs_have_the_precision_of_the_products(precision, keep_every):
    """The forward scan returns them, stacked: nothing else has this shape there."""
    task = dataclasses.replace(TASK, network=dataclasses.replace(NETWORK, dtype=precision))
    program = program_of(task, "adamw", clip=0.0, update_in_backward=True, keep_every=keep_every)
    with jax.numpy_dtype_promotion("standard"):
        traced = program.train_step.trace(program.state, program.batch).jaxpr.jaxpr
    scans = [one for one in traced.eqns if one.primitive.name == "scan"]
    scans = scans or [one for eqn in traced.eqns for one in inner(eqn) if one.primitive.name == "scan"]
    saved = [x.aval for x in scans[0].outvars if x.aval.ndim == 4]
    assert [(x.shape, x.dtype.name) for x in saved] == [((3 // keep_every, 4, 8, 16), precision)]


def inner(equation):
    """The equations of what an equation calls."""
    return [one for called in jax.core.jaxprs_in_params(equation.params) for one in called.eqns]
