"""Device helpers: describe the device of a run; create simulated CPU devices."""

from collections.abc import Sequence
from typing import Any

import jax


def device_summary() -> dict[str, Any]:
    """Return the name of the device and, if its backend reports it, the peak memory of this
    process.
    """
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}  # None on CPU
    peak = statistics.get("peak_bytes_in_use")
    return {"device": device.device_kind} | ({} if peak is None else {"peak_memory_bytes": peak})


def host_devices(count: int) -> Sequence[jax.Device]:
    """Return `count` simulated CPU devices. Must be called before a JAX backend is initialised."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()
