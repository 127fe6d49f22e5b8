"""The first weights of a run that starts from a model."""

from pathlib import Path

import jax
import jax.numpy as jnp

from train.program.program import Program
from train.program.step import TrainState
from train.program.task import Params
from train.storage.folder import RunFolder
from train.storage.model import read_model
from train.storage.weights import kept_step, restore_params
from train.system.processes import on_first


def step_of_model(init_from: Path, step: int | None) -> int:
    """Return the checkpoint to start from: the newest of now, should there be newer ones later."""
    return on_first(lambda: kept_step(RunFolder(init_from).checkpoints, step))


def state_of_model(init_from: Path, step: int | None, program: Program, seed: int) -> TrainState:
    """Return the state before the first update: the weights of the model in a folder.

    Each device reads its own shards. A head is drawn, from `seed`.
    """
    stored = read_model(init_from).architecture.param_dtype
    abstract = dict(program.state.params)
    head = abstract.pop("head", None)
    as_stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(stored), sharding=x.sharding), abstract)
    params: Params = restore_params(RunFolder(init_from).checkpoints, step, as_stored)
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), params, abstract)
    if head is not None:
        shardings = jax.tree.map(lambda x: x.sharding, head)
        params["head"] = jax.jit(lambda: program.task.draw(seed)["head"], out_shardings=shardings)()
    return program.first_state(params)
