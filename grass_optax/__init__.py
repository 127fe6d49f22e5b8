"""Gradient-subspace optimizers for JAX: published methods as Optax transformations, and the combinator they are
written in."""

from grass_optax import grassmann, layouts, residual, subspaces, transport
from grass_optax.diagnostics import MemoryReport, memory_report
from grass_optax.methods import grassjump, grasswalk, scale_by_grassjump, scale_by_grasswalk
from grass_optax.split import SplitState, split_by_subspace

__version__ = "0.1.0"

__all__ = [  # in reading order
    "grassjump",
    "grasswalk",
    "scale_by_grassjump",
    "scale_by_grasswalk",
    "split_by_subspace",
    "SplitState",
    "subspaces",
    "transport",
    "residual",
    "layouts",
    "grassmann",
    "memory_report",
    "MemoryReport",
]
