"""What a fine-tuning run needs to know of its kind, and how its first weights are read."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from train.config.finetune import Finetune
from train.config.run import PRECISIONS
from train.loop.trainer import Data
from train.program.attention import with_attention
from train.program.program import Program
from train.program.step import TrainState
from train.program.task import Network, Params, Task
from train.storage.folder import RunFolder
from train.storage.model import StoredModel, read_model
from train.storage.weights import restore_params


class Work(NamedTuple):
    """A task and its examples.

    Attributes:
      task: What is learnt.
      rows: Rows per epoch.
      data: The examples.
      model: What is stored as the model of the run.
    """

    task: Task
    rows: int
    data: Data
    model: StoredModel


def adapted(config: Finetune, network: Network, mesh: Mesh, seq_len: int) -> Network:
    """Return the network with the precisions and the attention of the flags."""
    start = config.start
    types = PRECISIONS[start.precision]
    network = dataclasses.replace(network, dtype=types.products, param_dtype=types.weights, remat=start.remat)
    return with_attention(network, start.attention, mesh.devices.flat[0], seq_len)


def state_of_model(config: Finetune, program: Program) -> TrainState:
    """Return the state before the first update: the weights of the model to start from.

    Each device reads its own shards. A head is drawn.
    """
    stored = read_model(config.start.init_from).architecture.param_dtype
    abstract = dict(program.weights)
    head = abstract.pop("head", None)
    as_stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(stored), sharding=x.sharding), abstract)
    step = config.start.init_step
    assert step is not None  # `run_finetune` has named it
    params: Params = restore_params(RunFolder(config.start.init_from).checkpoints, step, as_stored)
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), params, abstract)
    if head is not None:
        shardings = jax.tree.map(lambda x: x.sharding, head)
        params["head"] = jax.jit(lambda: program.task.draw(config.data.seed)["head"], out_shardings=shardings)()
    return program.first_state(params)
