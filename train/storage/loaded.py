"""A model on its device, from the folder of a run or of an import."""

import dataclasses
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import SingleDeviceSharding

from models import Llama
from train.config.run import PRECISIONS, Precision, Pretrain
from train.program.task import Params, abstract_params, structure
from train.storage.folder import RunFolder
from train.storage.model import StoredModel, read_model
from train.storage.weights import kept_step, restore_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its weights, which are all that the device holds.

    Attributes:
      stored: What it is, except its weights.
      step: The number of updates.
      graphdef: The network without arrays.
      params: The weights.
    """

    stored: StoredModel
    step: int
    graphdef: nnx.GraphDef[Llama]
    params: Params

    @property
    def llama(self) -> Llama:
        """The network with its weights."""
        llama: Llama = nnx.merge(self.graphdef, self.params)
        return llama


def load_model(run_dir: Path, step: int | None, dtype: Precision | None) -> LoadedModel:
    """Read a model and the weights of a checkpoint onto the first device.

    Args:
      run_dir: The folder of a run or of an import.
      step: Updates of the checkpoint; None for the newest.
      dtype: Precision of the products; None for that of the run, float32 for an import.

    Raises:
      UserError: If there is no such model or checkpoint.
    """
    stored = read_model(run_dir)
    folder = RunFolder(run_dir)
    step = kept_step(folder.checkpoints, step)
    if dtype is None and folder.config.exists():
        run = folder.stored().config
        flags = run.model if isinstance(run, Pretrain) else run.start
        dtype = PRECISIONS[flags.precision].products
    network = dataclasses.replace(stored.network, dtype=dtype or "float32")
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract_params(network)
    )
    params = restore_params(folder.checkpoints, step, abstract)
    return LoadedModel(stored=stored, step=step, graphdef=structure(network), params=params)
