"""What a training step will take of each device of a mesh, and what the devices will send each
other.

The trainer's own step is compiled ahead of time from shapes and shardings; nothing runs and nothing
is allocated, so the devices need not be here. Host (CPU) devices stand for them, or the compiler of
a TPU compiles for a topology.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from hlo.traffic import collectives
from models import count_parameters
from train.config.optimizers import SCALES, OptimizerName
from train.config.run import Pretrain, UserError, flags
from train.config.validate import check
from train.plan.config import Plan, run_of_plan
from train.plan.report import text
from train.pretrain.folder import versions
from train.program.program import Program, make_program, refuse_untraceable
from train.program.sharding import DATA, FSDP, make_mesh, mesh_sizes
from train.system.devices import host_devices
from train.system.files import write_whole

# The flags of a run that decide what a step takes; the others are not in a plan.
PLANNED = (
    "model", "vocab_size", "dtype", "param_dtype", "remat", "batch_size", "seq_len", "optimizer", "rank", "mu_dtype",
    "nu_dtype", "mesh",
)  # fmt: skip
NO_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA begins what it says of a program that does not fit


def plan(config: Plan) -> None:
    """Compile, print, and write if asked to."""
    path = config.plan.json
    if path is not None and not os.access(path.parent, os.W_OK):  # said before minutes of compilation
        raise UserError(
            f"--json {path} cannot be written: choose a file in a folder that exists and may be written to."
        )
    sizes = mesh_sizes(config.devices.mesh)
    run = run_of_plan(config, sizes[DATA] * sizes[FSDP])
    check(run)
    count = math.prod(sizes.values())
    devices = tpu_devices(config.plan.topology, count) if config.plan.topology else host_devices(count)
    mesh = make_mesh(run.devices.mesh, run.data.batch_size, devices)
    refuse_untraceable(run, mesh)
    found = planned_step(run, mesh)
    found |= {"topology": config.plan.topology, "versions": versions()}
    print(text(found))
    if path is not None:
        write_whole(path, json.dumps(found, indent=1) + "\n")


def tpu_devices(topology: str, count: int) -> Sequence[jax.Device]:
    """Return the devices of a TPU that is not here."""
    from jax.experimental import topologies  # the API is experimental, and plans for CPU devices do without it

    jax.config.update("jax_platforms", "cpu")  # or JAX looks for a TPU in this machine
    try:
        devices: Sequence[jax.Device] = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {topology} does not work, {_mended(str(error))}") from None
    except RuntimeError:  # of JAX itself, before there is a backend
        raise UserError(
            f"--topology {topology} needs the compiler of TPUs, the package libtpu, and JAX does not find it: "
            "pip install 'jax[tpu]', or leave --topology out to plan with CPU devices."
        ) from None
    if len(devices) != count:
        raise UserError(
            f"--topology {topology} has {len(devices)} devices, and --mesh is for {count}: make them the same."
        )
    return devices


def _mended(error: str) -> str:
    if error.startswith("INVALID_ARGUMENT"):
        return f"libtpu does not know it ({error}): give a generation and its chips, as in v5e:8x8 or v5p:4x4x4."
    return (
        f"libtpu does not start ({error}): it serves one process of a machine at a time, so wait for the other, or set "
        "ALLOW_MULTIPLE_LIBTPU_LOAD=true, which does no harm where nothing runs."
    )


def planned_step(run: Pretrain, mesh: Mesh) -> dict[str, Any]:
    """Return what a step of `run` takes of each device of `mesh`, as JSON has it."""
    program = make_program(run, mesh, planned=True)
    held = {
        "parameters": device_bytes(program.state.params),
        "optimizer_state": device_bytes((program.state.opt_state, program.state.step)),
        "batch": device_bytes(program.windows),
        "gradients": device_bytes(program.state.params),  # of the same shapes and dtypes, and laid out alike
        "adamw_state": adamw_state_bytes(run, mesh),
    }
    start = time.perf_counter()
    return {
        "flags": {name: value for name, value in flags(run).items() if name in PLANNED},
        "parameters": count_parameters(run.model.build()),
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "bytes": held,
        **compiled_step(program),
        "compile_seconds": time.perf_counter() - start,
    }


def compiled_step(program: Program) -> dict[str, Any]:
    """Return what the compiler says of a step: its memory, and what is sent. Or that it does not
    fit.
    """
    try:
        compiled = program.train_step.lower(program.state, program.windows).compile()
    except jax.errors.JaxRuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
        reason = str(error).split("\n\n")[0].removeprefix(f"{NO_MEMORY}: ")
        return {"does_not_fit": reason, "compiled": None, "sent": None}
    analysis = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp", "generated_code")
    memory = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in names}
    # What is donated is both argument and output.
    memory["total"] = sum(memory.values()) - 2 * memory["alias"]
    memory["peak"] = int(getattr(analysis, "peak_memory_in_bytes", 0))
    sent = [one._asdict() for one in collectives(str(compiled.as_text()))]
    return {"does_not_fit": None, "compiled": memory, "sent": sent}


def device_bytes(tree: Any) -> int:
    """Return the bytes of one device's part of arrays, from their shapes and shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def adamw_state_bytes(run: Pretrain, mesh: Mesh) -> int:
    """Return what AdamW's state would take of one device."""
    name = OptimizerName.ADAMW
    adamw = dataclasses.replace(
        run.optimizer, optimizer=name, scale=SCALES[name], mu_dtype="float32", nu_dtype="float32"
    )
    state = make_program(dataclasses.replace(run, optimizer=adamw), mesh).state
    return device_bytes((state.opt_state, state.step))
