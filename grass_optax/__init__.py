"""Gradient-subspace optimizers for JAX: published methods as Optax transformations, and the
combinator that they are written in.
"""

from grass_optax import bases, methods, residual, state, subspaces, transport
from grass_optax._blocks.turns import block_coordinate
from grass_optax._inner.transforms import in_float32
from grass_optax._linalg import grassmann
from grass_optax._split.records import SplitState
from grass_optax._split.split import split_by_subspace
from grass_optax._trees import layouts
from grass_optax.methods import (
    apollo,
    apollo_mini,
    assemble,
    badam,
    coap,
    column_sgd,
    fira,
    frugal,
    galore,
    golore,
    grassjump,
    grasswalk,
    ldadam,
    online_subspace_descent,
    scale_by_apollo,
    scale_by_apollo_mini,
    scale_by_badam,
    scale_by_coap,
    scale_by_column_sgd,
    scale_by_fira,
    scale_by_frugal,
    scale_by_galore,
    scale_by_golore,
    scale_by_grassjump,
    scale_by_grasswalk,
    scale_by_ldadam,
    scale_by_online_subspace_descent,
    scale_by_subtrack,
    scale_by_subtrack_grad,
    scale_by_sumo,
    subtrack,
    subtrack_grad,
    sumo,
    with_rates,
)
from grass_optax.state.memory import MemoryReport, memory_report
from grass_optax.state.shardings import state_shardings

__version__ = "0.1.0"

__all__ = [  # in reading order
    "grassjump",
    "grasswalk",
    "subtrack",
    "subtrack_grad",
    "galore",
    "golore",
    "fira",
    "apollo",
    "apollo_mini",
    "ldadam",
    "frugal",
    "online_subspace_descent",
    "coap",
    "sumo",
    "badam",
    "column_sgd",
    "scale_by_grassjump",
    "scale_by_grasswalk",
    "scale_by_subtrack",
    "scale_by_subtrack_grad",
    "scale_by_galore",
    "scale_by_golore",
    "scale_by_fira",
    "scale_by_apollo",
    "scale_by_apollo_mini",
    "scale_by_ldadam",
    "scale_by_frugal",
    "scale_by_online_subspace_descent",
    "scale_by_coap",
    "scale_by_sumo",
    "scale_by_badam",
    "scale_by_column_sgd",
    "assemble",
    "with_rates",
    "split_by_subspace",
    "SplitState",
    "block_coordinate",
    "in_float32",
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
]
