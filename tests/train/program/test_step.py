"""The schedule, the update, and the optimizer's view of the weights, by hand."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import LlamaConfig
from tests.util import long_but
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.schedule import ScheduleFlags
from train.program.kernels import stacked_kernels
from train.program.optimizer import make_optimizer, make_schedule
from train.program.program import make_program
from train.program.sharding import make_mesh
from train.program.step import all_finite, first_state, make_train_step
from train.program.task import LanguageModel, Params, Rows

MODEL = LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=2)
TASK = LanguageModel(network=MODEL, batch_size=2, seq_len=8)
SCHEDULE = ScheduleFlags(steps=20, warmup=5, final_lr_fraction=0.25)
WINDOWS = np.arange(18, dtype=np.int32).reshape(2, 9) % 11


def small(optimizer: OptimizerName, **flags: float) -> OptimizerFlags:
    settings = OptimizerFlags(optimizer=optimizer, rank=4, update_proj_gap=3, learning_rate=0.01)
    return dataclasses.replace(settings, **flags)  # type: ignore[arg-type]


def test_only_stacked_kernels_are_split() -> None:
    params = jax.eval_shape(lambda: TASK.draw(0))
    marks = stacked_kernels(params)
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        mark = marks
        for key in path:
            mark = mark[key.key]
        if name.startswith("layers/") and name.endswith("kernel"):
            assert (mark.reduction_axis, mark.output_axis, leaf.ndim) == (1, 2, 3)
        else:
            assert mark is None


@pytest.mark.parametrize("optimizer", ["grassjump", "adamw", "muon"])
def test_an_update_keeps_the_shape_of_the_state(optimizer: OptimizerName) -> None:
    tx = make_optimizer(small(optimizer), SCHEDULE, seed=0)
    state = jax.eval_shape(lambda: first_state(TASK.draw(0), tx))
    step = make_train_step(TASK.loss, tx, make_schedule(0.01, SCHEDULE))
    after, report = jax.eval_shape(step, state, TASK.batch)
    assert after == state
    assert [(x.shape, x.dtype) for x in report] == [
        ((), np.dtype(kind)) for kind in (np.float32, np.float32, np.bool_, np.bool_)
    ]


@pytest.mark.parametrize("optimizer", ["grassjump", "adamw"])
def test_a_bad_step_leaves_every_bit_of_the_state(optimizer: OptimizerName) -> None:
    tx = make_optimizer(small(optimizer), SCHEDULE, seed=0)
    guarded = jax.jit(make_train_step(TASK.loss, tx, make_schedule(0.01, SCHEDULE)))

    state = jax.jit(lambda: first_state(TASK.draw(0), tx))()
    for step in range(1, 5):  # over a refresh
        before, (state, report) = state, guarded(state, Rows(WINDOWS))
        assert not report.is_skipped
        assert (int(state.step), bits(state) == bits(before)) == (step, False)
    for bad in (math.nan, math.inf):
        spoilt = state._replace(params=state.params | {"lm_head": {"kernel": jnp.full((16, 11), bad)}})
        after, report = guarded(spoilt, Rows(WINDOWS))
        assert report.is_skipped
        assert bits(after) == bits(spoilt)
    after, report = guarded(state, Rows(WINDOWS), 0.0)
    assert report.is_skipped
    assert bits(after) == bits(state)


@pytest.mark.parametrize("optimizer", ["grassjump", "adamw"])
def test_a_run_with_a_skipped_step_is_the_run_without_it(optimizer: OptimizerName) -> None:
    tx = make_optimizer(small(optimizer), SCHEDULE, seed=0)

    def loss(params: Params, batch: Rows) -> jax.Array:
        """The loss, whose gradient is nan if the first token is the last word."""
        return TASK.loss(params, batch) * jnp.where(batch.tokens[0, 0] == 10, jnp.nan, 1.0)

    step = jax.jit(make_train_step(loss, tx, make_schedule(0.01, SCHEDULE)))
    good = [Rows((WINDOWS + i) % 9) for i in range(5)]
    bad = Rows(np.full_like(WINDOWS, 10))

    def after(batches: list[Rows]) -> tuple[list[bytes], list[bool]]:
        state, skipped = jax.jit(lambda: first_state(TASK.draw(0), tx))(), []
        for batch in batches:
            state, report = step(state, batch)
            skipped.append(bool(report.is_skipped))
        return bits(state), skipped

    state, skipped = after([*good[:2], bad, *good[2:4], bad, bad, good[4]])  # over a refresh
    assert skipped == [False, False, True, False, False, True, True, False]
    assert (state, [False] * 5) == after(good)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("optimizer", "param_dtype"),
    long_but(
        [("grassjump", "float32")],
        [*((name, "float32") for name, row in OPTIMIZERS.items()), ("grassjump", "bfloat16")],
    ),
)
def test_every_array_of_the_state_is_updated_in_place(optimizer: OptimizerName, param_dtype: str) -> None:
    task = dataclasses.replace(TASK, network=dataclasses.replace(MODEL, param_dtype=param_dtype))
    program = make_program(make_mesh("", 2), task, small(optimizer), SCHEDULE, 0)
    compiled = program.train_step.lower(program.state, program.batch).compile()
    leaves = jax.tree.leaves(program.state)
    header = compiled.as_text().split("\n")[0]
    aliases = re.search(r"input_output_alias=\{ (.*?) \}, ", header)
    assert aliases is not None
    pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}, \w+-alias\)", aliases[1])
    assert [(int(out), int(into)) for out, into in pairs] == [(i, i) for i in range(len(leaves))]
    assert compiled.memory_analysis().alias_size_in_bytes == sum(x.size * x.dtype.itemsize for x in leaves)


def test_weights_of_16_bits_keep_small_updates() -> None:
    """Adam's first update of 1e-6, of weights near 0.02, whose spacing is 1e-4: one in a hundred
    moves, where rounding to the nearest would move only those that are nearly 0. Again, the same
    ones do.
    """
    task = dataclasses.replace(TASK, network=dataclasses.replace(MODEL, dtype="bfloat16", param_dtype="bfloat16"))
    flags = small("adamw", learning_rate=1e-6)
    program = make_program(make_mesh("", 2), task, flags, dataclasses.replace(SCHEDULE, warmup=0), 0)
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention widens bfloat16 scores implicitly
        step = program.train_step.lower(program.state, program.batch).compile()
    first, again = program.draw_state(), program.draw_state()
    before = np.asarray(first.params["layers"]["mlp"]["gate"]["kernel"])
    after, _ = step(first, Rows(jnp.asarray(WINDOWS)))
    moved = np.mean(np.asarray(after.params["layers"]["mlp"]["gate"]["kernel"]) != before)
    assert 0.001 < moved < 0.2
    twice, _ = step(again, Rows(jnp.asarray(WINDOWS)))
    jax.tree.map(np.testing.assert_array_equal, after, twice)


def test_the_gradient_is_clipped_by_its_norm() -> None:
    params = {"w": jnp.zeros(2)}
    grads = {"w": jnp.asarray([3.0, 4.0])}
    for limit, factor in ((1.0, 0.2), (0.0, 1.0), (100.0, 1.0)):
        tx = make_optimizer(small("adamw", clip=limit), SCHEDULE, seed=0)
        _, state = tx.update(grads, tx.init(params), params)
        moments = [
            leaf for _, mu in optax.tree_utils.tree_get_all_with_path(state, "mu") for leaf in jax.tree.leaves(mu)
        ]
        np.testing.assert_allclose(*moments, 0.1 * factor * grads["w"], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_detected_anywhere(bad: float) -> None:
    good = {"a": jnp.ones((3, 4)), "count": jnp.asarray(2), "b": (jnp.ones(5, jnp.bfloat16),)}
    assert all_finite(good)
    assert not all_finite(good | {"a": jnp.ones((3, 4)).at[1, 2].set(bad)})
    assert not all_finite(good | {"b": (jnp.ones(5, jnp.bfloat16).at[4].set(bad),)})
