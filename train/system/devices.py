"""Device helpers: describe the device of a run, and say when its memory is too small; create
simulated CPU devices.
"""

import collections
import contextlib
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from train.config.run import UserError

NO_MEMORY = "RESOURCE_EXHAUSTED"  # begins XLA's error for what does not fit


class OutOfMemory(UserError):
    """Something does not fit into the memory of its device."""


@contextlib.contextmanager
def reporting_exhaustion(what: str, advice: Callable[[], str]) -> Iterator[None]:
    """Turn the error of a memory that is too small for `what` into one that says what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise OutOfMemory(f"{what} does not fit into the memory of its device ({reason}). {advice()}") from error


def require_devices() -> None:
    """Start the backend of JAX, unless that needs other processes.

    Raises:
      UserError: If it has no device, as without a driver, or if its plugin is not installed.
    """
    if jax.distributed.is_initialized():
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).split()) or "no such device or plugin"
        raise UserError(
            f"JAX can use no device{f' of JAX_PLATFORMS={asked}' if asked else ''} ({reason}): install JAX for it, as "
            "by pip install '.[cuda]', check that it is free and its driver works, or set JAX_PLATFORMS=cpu."
        ) from error


def devices_named() -> str:
    """Return the devices of all processes, counted by kind."""
    names = collections.Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{count} x {name}" for name, count in names.items())


def device_summary() -> dict[str, Any]:
    """Return the name of the device and, if its backend reports it, the peak memory of this
    process.
    """
    return {"device": jax.local_devices()[0].device_kind} | peak_memory()


def peak_memory() -> dict[str, int]:
    """Return the most memory that this process has used of its first device, if its backend reports
    it.
    """
    statistics = jax.local_devices()[0].memory_stats() or {}  # None on CPU
    peak = statistics.get("peak_bytes_in_use")
    return {} if peak is None else {"peak_memory_bytes": peak}


def machine() -> dict[str, Any]:
    """Return what a run was made on: its devices, the processor and the system."""
    info = Path("/proc/cpuinfo")  # Linux alone; elsewhere `platform` knows
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return {
        "devices": devices_named(),
        "processes": jax.process_count(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def host_devices(count: int) -> Sequence[jax.Device]:
    """Return `count` simulated CPU devices. Must be called before a JAX backend is initialised."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()


def processor_name() -> str:
    """Return the name of the processor, if the system reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
