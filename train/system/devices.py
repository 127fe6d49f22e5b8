"""The devices: what a run was made on, and those of a CPU that stand for others."""

from collections.abc import Sequence
from typing import Any

import jax


def device_summary() -> dict[str, Any]:
    """Return the device's name and, where its backend tells, the most memory this process has had
    in use there.
    """
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}  # None on CPU
    peak = statistics.get("peak_bytes_in_use")
    return {"device": device.device_kind} | ({} if peak is None else {"peak_memory_bytes": peak})


def host_devices(count: int) -> Sequence[jax.Device]:
    """Return so many CPU devices of this process, in which no backend may have been started."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()
