"""Compiled programs are kept on disk, so that a run that starts again need not compile them."""

import hashlib
import platform
from pathlib import Path

import jax

SETTING = "jax_compilation_cache_dir"
FOLDER = "programs"


def keep_programs(cache_dir: Path) -> None:
    """Let JAX keep compiled programs in `cache_dir`, unless it is told to keep them elsewhere.

    JAX finds a program by its code, its options, the version of jaxlib and the kind of device. That
    does not cover the instructions of a CPU: a program of another machine that shares the cache may
    end in an illegal instruction. So each kind of processor has a folder of its own.
    """
    if getattr(jax.config, SETTING) is None:
        jax.config.update(SETTING, str(cache_dir.absolute() / FOLDER / processor()))


def processor() -> str:
    """Return a name of what this machine's processor can do."""
    return hashlib.sha256(f"{platform.machine()} {_instructions()}".encode()).hexdigest()[:12]


def _instructions() -> str:
    """The instruction sets that Linux names; elsewhere the name of the processor."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    lines = path.read_text().splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
