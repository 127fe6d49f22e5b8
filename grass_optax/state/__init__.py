"""Questions about a finished state: where its arrays lie on a mesh, and what they cost."""

from grass_optax.state.memory import LeafMemory, MemoryReport, memory_report
from grass_optax.state.shardings import state_shardings

__all__ = ["state_shardings", "memory_report", "MemoryReport", "LeafMemory"]
