"""`plan`: memory per device and traffic between devices of a training step on a mesh.

The trainer's own step is compiled ahead of time from shapes and shardings. Nothing is run or
allocated, so the devices need not be present: simulated CPU devices represent them, or a TPU
compiler compiles for a topology.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from hlo.traffic import collectives
from models import count_parameters
from train.config.run import Pretrain, UserError, default_optimizer
from train.config.stored import settings_of
from train.config.validate import check
from train.plan.config import Plan, run_of_plan
from train.plan.report import text
from train.program.program import Program, make_program, pretraining, refuse_untraceable
from train.program.sharding import DATA, FSDP, make_mesh, mesh_sizes
from train.storage.folder import versions
from train.system.devices import host_devices
from train.system.files import as_json, write_whole

# The settings of a run that decide the cost of a step, by group.
PLANNED = {
    "model": ("model", "vocab_size", "precision", "logits", "remat"),
    "data": ("batch_size", "accumulate", "seq_len"),
    "optimizer": ("optimizer", "rank", "mu_dtype", "nu_dtype"),
    "devices": ("mesh",),
}
NO_MEMORY = "RESOURCE_EXHAUSTED"  # begins XLA's error for a program that does not fit


def run_plan(config: Plan) -> None:
    """Compile, print, and write JSON if requested."""
    path = config.plan.json
    if path is not None and not os.access(path.parent, os.W_OK):  # checked before minutes of compilation
        raise UserError(f"--json {path} cannot be written: choose a file in an existing, writable folder.")
    sizes = mesh_sizes(config.devices.mesh)
    run = run_of_plan(config, sizes[DATA] * sizes[FSDP])
    check(run)
    count = math.prod(sizes.values())
    devices = tpu_devices(config.plan.topology, count) if config.plan.topology else host_devices(count)
    mesh = make_mesh(run.devices.mesh, run.data.batch_size, devices)
    program = planned_program(run, mesh)
    refuse_untraceable(program, run.optimizer.optimizer, run.devices.mesh)
    plan = planned_step(run, program) | {"topology": config.plan.topology, "versions": versions()}
    print(text(plan))
    if path is not None:
        write_whole(path, as_json(plan))


def tpu_devices(topology: str, count: int) -> Sequence[jax.Device]:
    """Return the devices of a TPU topology that is not present."""
    from jax.experimental import topologies  # experimental, and not needed for CPU devices

    jax.config.update("jax_platforms", "cpu")  # or JAX looks for a TPU in this machine
    try:
        devices: Sequence[jax.Device] = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {topology} does not work: {_explained(str(error))}") from None
    except RuntimeError:  # raised by JAX itself, before there is a backend
        raise UserError(
            f"--topology {topology} requires the TPU compiler of the package libtpu, which JAX cannot find: "
            "pip install 'jax[tpu]', or leave --topology out to plan with simulated CPU devices."
        ) from None
    if len(devices) != count:
        raise UserError(
            f"--topology {topology} has {len(devices)} devices, but --mesh has {count}: make the two numbers equal."
        )
    return devices


def _explained(error: str) -> str:
    if error.startswith("INVALID_ARGUMENT"):
        return f"libtpu rejects it ({error}). Give a generation and its chips, for example v5e:8x8 or v5p:4x4x4."
    return (
        f"libtpu does not start ({error}). It serves one process of a machine at a time: wait for the other one, or "
        "set ALLOW_MULTIPLE_LIBTPU_LOAD=true, which is safe because nothing is run."
    )


def planned_program(run: Pretrain, mesh: Mesh) -> Program:
    """Return the programs of a run on the devices that those of `mesh` represent."""
    return make_program(
        mesh,
        pretraining(run.model, run.data, mesh),
        run.optimizer,
        run.schedule,
        run.data.seed,
        accumulate=run.data.accumulate,
        planned=True,
    )


def planned_step(run: Pretrain, program: Program) -> dict[str, Any]:
    """Return the cost of a step of `run` per device, as JSON has it."""
    mesh, settings = program.mesh, settings_of(run)
    held = {
        "parameters": device_bytes(program.state.params),
        "optimizer_state": device_bytes((program.state.opt_state, program.state.step)),
        "batch": device_bytes(program.batch),
        "gradients": device_bytes(program.state.params),  # same shapes, dtypes and shardings
        "adamw_state": adamw_state_bytes(run, mesh),
    }
    start = time.perf_counter()
    return {
        "flags": {name: settings[group][name] for group, names in PLANNED.items() for name in names},
        "parameters": count_parameters(run.model.build()),
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "bytes": held,
        **compiled_step(program),
        "compile_seconds": time.perf_counter() - start,
    }


def compiled_step(program: Program) -> dict[str, Any]:
    """Return the compiler's figures of a step: memory and traffic, or why it does not fit."""
    try:
        compiled = program.train_step.lower(program.state, program.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
        reason = str(error).split("\n\n")[0].removeprefix(f"{NO_MEMORY}: ")
        return {"does_not_fit": reason, "compiled": None, "sent": None}
    analysis = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp", "generated_code")
    memory = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in names}
    # Donated memory is counted both as argument and as output.
    memory["total"] = sum(memory.values()) - 2 * memory["alias"]
    memory["peak"] = int(getattr(analysis, "peak_memory_in_bytes", 0))
    sent = [row._asdict() for row in collectives(str(compiled.as_text()))]
    return {"does_not_fit": None, "compiled": memory, "sent": sent}


def device_bytes(tree: Any) -> int:
    """Return the bytes of one device's shards of arrays, from their shapes and shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def adamw_state_bytes(run: Pretrain, mesh: Mesh) -> int:
    """Return the bytes of AdamW's state on one device."""
    adamw = dataclasses.replace(run, optimizer=default_optimizer("adamw", run.model.model))
    state = planned_program(adamw, mesh).state
    return device_bytes((state.opt_state, state.step))
