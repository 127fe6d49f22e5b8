"""Measurements in a separate process per contestant.

An allocator's peak never falls, and memory left by one program must not count for the next.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).parent.parent
STATUS = Path("/proc/self/status")


def allocator_bytes() -> dict[str, int] | None:
    """Current and peak bytes of the device's allocator; None if it does not report them, as on a
    CPU.
    """
    statistics = jax.devices()[0].memory_stats()
    if not statistics or "peak_bytes_in_use" not in statistics:
        return None
    return {"now": statistics["bytes_in_use"], "peak": statistics["peak_bytes_in_use"]}


def resident(name: str) -> int:
    """Bytes of resident memory of this process on Linux: current (VmRSS) or peak (VmHWM).

    `ru_maxrss` will not do: a child begins with the peak of its parent.
    """
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def in_children(module: str, arguments: list[list[str]], jobs: int) -> Iterator[dict[str, Any]]:
    """Run a module once for each of several command lines, `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(functools.partial(in_a_child, module), arguments)


def in_a_child(module: str, arguments: list[str]) -> dict[str, Any]:
    """Run a module of this package; return the JSON of its last line, or its error if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ  # they may share a GPU
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def compiled_bytes(compiled: Any) -> dict[str, int]:
    """The memory of a program, as planned by the compiler."""
    analysis = compiled.memory_analysis()
    names = ("temp", "argument", "output", "alias")
    return {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in names}
