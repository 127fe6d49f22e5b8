"""Questions about a finished state: where its arrays lie on a mesh, what they cost, how much of a
gradient the subspaces hold, how they move, and what is recovered outside them.
"""

from grass_optax.state.diagnostics import CapturedEnergy, by_layer, captured_energy
from grass_optax.state.memory import LeafMemory, MemoryReport, memory_report
from grass_optax.state.recovered import RecoveredResidual, recovered_residual
from grass_optax.state.shardings import state_shardings
from grass_optax.state.tangents import ErrorTangent, SubspaceChange, error_tangent, subspace_change

__all__ = [
    "state_shardings",
    "memory_report",
    "MemoryReport",
    "LeafMemory",
    "captured_energy",
    "CapturedEnergy",
    "error_tangent",
    "ErrorTangent",
    "subspace_change",
    "SubspaceChange",
    "recovered_residual",
    "RecoveredResidual",
    "by_layer",
]
