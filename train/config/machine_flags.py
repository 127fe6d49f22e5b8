"""The flags that say where a run is: its devices, and its processes."""

import dataclasses
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """The devices.

    On a mesh, the axis data replicates the model, fsdp shards every matrix, and tensor shards
    heads, features and the vocabulary.
    """

    mesh: str = ""
    """Mesh sizes, such as data=2,fsdp=4; -1 for all other devices. Default: one device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """The processes of a multi-process run. Not stored: a run may resume on other processes."""

    distributed: Annotated[
        bool,
        tyro.conf.arg(
            help="Run as one process of a multi-process job. Detected automatically under SLURM, Open MPI, Kubernetes "
            "and TPU pods; otherwise also pass the next three flags."
        ),
    ] = False
    coordinator_address: str | None = None
    """HOST:PORT of process 0; the same in all processes."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Index of this process, from 0."""
    heartbeat_timeout: int = 100
    """Seconds without a heartbeat before the remaining processes abort."""
