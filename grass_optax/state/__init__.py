"""Questions about a finished state: where its arrays lie on a mesh, what they cost, and how much of
a gradient the subspaces hold.
"""

from grass_optax.state.diagnostics import CapturedEnergy, captured_energy
from grass_optax.state.memory import LeafMemory, MemoryReport, memory_report
from grass_optax.state.shardings import state_shardings

__all__ = [
    "state_shardings",
    "memory_report",
    "MemoryReport",
    "LeafMemory",
    "captured_energy",
    "CapturedEnergy",
]
