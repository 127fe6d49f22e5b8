"""The schedule, the update, and the optimizer's view of the weights, by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import LlamaConfig
from train.config.optimizers import OptimizerName
from train.config.run import OptimizerFlags
from train.config.schedule import ScheduleFlags
from train.program.optimizer import make_optimizer, make_schedule, stacked_kernels
from train.program.step import all_finite, first_state, make_train_step
from train.program.task import LanguageModel

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
    assert {(x.shape, x.dtype) for x in report} == {((), np.dtype(np.float32))}


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
