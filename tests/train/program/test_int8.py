"""Runs whose kernels are stored in 8 bits: their step, their evaluation, their checkpoints."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from tests.train.program.test_backward import NETWORK, SCHEDULE, TASK, rows
from train.config.optimizer_flags import OptimizerFlags
from train.program.narrow_weights import as_floats, in_8_bits
from train.program.program import make_program
from train.program.sharding import make_mesh
from train.storage.checkpoint import Checkpoints
from train.storage.weights import restore_params, restore_params_on_host

BFLOAT16 = dataclasses.replace(TASK, network=dataclasses.replace(NETWORK, dtype="bfloat16", param_dtype="bfloat16"))


def program(task=TASK, backward=True, name="grassjump", **flags):
    optimizer = OptimizerFlags(
        optimizer=name, rank=4, update_proj_gap=5, learning_rate=1e-2, update_in_backward=backward, **flags
    )
    return make_program(make_mesh("", 4), task, optimizer, SCHEDULE, seed=0, weights="int8")


def trained(program, steps, state=None):
    state, losses = state or program.draw_state(), []
    for step in range(int(state.step), int(state.step) + steps):
        state, report = program.train_step(state, rows(program.task, step))
        losses.append(float(report.loss))
    return state, losses


@pytest.mark.long
@pytest.mark.parametrize("name", ["adamw", "grassjump", "muon", "frugal"])
def test_losses_are_those_of_the_plain_step(name):
    (state, found), (_, plain) = (trained(program(backward=backward, name=name), 8) for backward in (True, False))
    np.testing.assert_allclose(found, plain, atol=1e-3)
    first = program(backward=True, name=name).draw_state().params["layers"]["mlp"]["up"]["kernel"]
    assert float(jnp.mean(state.params["layers"]["mlp"]["up"]["kernel"].codes != first.codes)) > 0.1
    stored = {x.dtype for x in jax.tree.leaves(state.params["layers"]) if x.ndim == 3 and x.shape[1] > 1}
    assert stored == {jnp.dtype(jnp.int8)}


@pytest.mark.long
def test_an_evaluation_reads_the_weights_as_they_are_stored():
    run = program(BFLOAT16, name="adamw")
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention adds bfloat16 to float32
        state, batch = run.draw_state(), rows(run.task, 0)
        whole = run.task.predict(as_floats(state.params), batch)
        np.testing.assert_allclose(run.predict(state.params, batch), whole, atol=1e-2)
    chex.assert_trees_all_equal_shapes_and_dtypes(run.read(state.params), run.weights)


@pytest.mark.long
def test_first_weights_are_those_of_a_run_in_floats():
    run = program(name="adamw")
    weights = jax.jit(lambda: TASK.draw(0))()
    expected = jax.jit(in_8_bits)(weights)
    chex.assert_trees_all_equal(run.draw_state().params, expected)
    chex.assert_trees_all_equal(run.first_state(weights).params, expected)


def test_weights_of_a_checkpoint_are_floats_and_a_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    run = program(name="adamw", clip_by="previous")  # whose norm is in the state
    state, _ = trained(run, 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        checkpoints.finish()
        resumed = checkpoints.restore(3, run.state)
    expected = as_floats(state.params)
    sharding = SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), run.weights)
    chex.assert_trees_all_equal(restore_params(tmp_path, 3, abstract), expected)
    chex.assert_trees_all_equal(restore_params_on_host(tmp_path, 3, abstract), expected)
    local_devices = jax.local_devices

    def without_a_cpu(*args, backend=None, **kwargs):
        if backend == "cpu":  # as where JAX_PLATFORMS is cuda
            raise RuntimeError("Unknown backend cpu")
        return local_devices(*args, backend=backend, **kwargs)

    monkeypatch.setattr(jax, "local_devices", without_a_cpu)
    chex.assert_trees_all_equal(restore_params_on_host(tmp_path, 3, abstract), expected)
    monkeypatch.undo()
    (one, losses), (other, others) = trained(run, 2, state), trained(run, 2, resumed)
    chex.assert_trees_all_equal((one, losses), (other, others))
