"""What a fine-tuning run needs to know of its kind."""

import dataclasses
from typing import NamedTuple

from jax.sharding import Mesh

from train.config.finetune import Finetune
from train.config.run import PRECISIONS
from train.loop.given import Data
from train.program.attention import with_attention
from train.program.task import Network, Task
from train.storage.model import StoredModel


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
