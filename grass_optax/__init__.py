"""Gradient-subspace optimizers for JAX: published methods as Optax transformations, and the
combinator that they are written in.

The public names are the methods, which `methods.__all__` lists in reading order, and those below.
"""

from grass_optax import bases, methods, residual, state, subspaces, transport
from grass_optax._backward.clipping import Clip
from grass_optax._backward.scanned import ScannedLoss
from grass_optax._backward.step import BackwardReport, update_in_backward
from grass_optax._blocks.turns import block_coordinate
from grass_optax._inner.sums import stochastic_rounding
from grass_optax._inner.transforms import in_float32
from grass_optax._linalg import grassmann
from grass_optax._split.records import SplitState
from grass_optax._split.split import split_by_subspace
from grass_optax._trees import layouts
from grass_optax.methods import *  # noqa: F403
from grass_optax.state import MemoryReport, captured_energy, memory_report, state_shardings

__version__ = "0.2.0"

__all__ = [
    "split_by_subspace",
    "SplitState",
    "block_coordinate",
    "in_float32",
    "stochastic_rounding",
    "methods",
    "subspaces",
    "transport",
    "residual",
    "bases",
    "state",
    "layouts",
    "grassmann",
    "state_shardings",
    "memory_report",
    "MemoryReport",
    "captured_energy",
    "ScannedLoss",
    "update_in_backward",
    "Clip",
    "BackwardReport",
]
__all__ += methods.__all__
