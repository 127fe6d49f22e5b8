"""What a step costs on each device, by its shapes and by the compiler."""

import dataclasses
import math
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from hlo.traffic import collectives
from models import count_parameters
from train.config.optimizer_flags import default_optimizer
from train.config.run import Pretrain, UserError
from train.config.stored import settings_of
from train.plan.operations import product_operations
from train.program.program import Program, make_program, pretraining
from train.system.devices import NO_MEMORY

# The settings of a run that decide the cost of a step, by group.
PLANNED = {
    "model": ("model", "vocab_size", "precision", "weights", "logits", "remat"),
    "data": ("batch_size", "accumulate", "seq_len"),
    "optimizer": ("optimizer", "rank", "basis", "store_basis", "mu_dtype", "nu_dtype", "basis_dtype")
    + ("update_in_backward", "clip_by", "keep_every"),
    "devices": ("mesh",),
}
# In that error: what the program needs, and what the device has, in GiB.
NEEDED, AVAILABLE = re.compile(r"required[^(]*\(([\d.]+)G\)"), re.compile(r"available HBM \(([\d.]+)G\)")
GIB = 2**30


def planned_program(run: Pretrain, mesh: Mesh) -> Program:
    """Return the programs of a run on the devices that those of `mesh` represent."""
    return make_program(
        mesh,
        pretraining(run.model, run.data, mesh),
        run.optimizer,
        run.schedule,
        run.data.seed,
        accumulate=run.data.accumulate,
        weights=run.model.weights,
        planned=True,
    )


def planned_step(run: Pretrain, program: Program) -> dict[str, Any]:
    """Return the cost of a step of `run` per device, as JSON has it."""
    mesh, settings = program.mesh, settings_of(run)
    held = {
        "parameters": device_bytes(program.state.params),
        "optimizer_state": device_bytes((program.state.opt_state, program.state.step)),
        "batch": device_bytes(program.batch),
        # The whole tree has the shapes, types and shardings of the weights.
        "gradients": 0 if program.updates_in_backward else device_bytes(program.weights),
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
    traced = program.train_step.trace(program.state, program.batch)
    operations = step_operations(program)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        reason = refusal(error)
        return {
            "does_not_fit": reason,
            "needed": in_refusal(NEEDED, reason),
            "operations": operations,
            "compiled": None,
            "sent": None,
        }
    memory = memory_of(compiled)
    return {
        "does_not_fit": None,
        "needed": needed(memory, program.mesh.devices.flat[0]),
        "operations": operations,
        "compiled": memory,
        "sent": [row._asdict() for row in collectives(str(compiled.as_text()))],
    }


def step_operations(program: Program) -> int:
    """Return the operations of the products of a step, on all devices."""
    operations = product_operations(program.train_step.trace(program.state, program.batch).jaxpr.jaxpr)
    if program.updates_in_backward:  # each layer is updated in a loop of one turn, which is not counted
        update = jax.make_jaxpr(program.tx.update)(program.weights, program.state.opt_state, program.state.params)
        operations += product_operations(update.jaxpr)
    return operations


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Return the bytes of one device that a program takes, by the compiler."""
    analysis = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp", "generated_code")
    memory = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in names}
    # Donated memory is counted both as argument and as output.
    memory["total"] = sum(memory.values()) - 2 * memory["alias"]
    memory["peak"] = int(getattr(analysis, "peak_memory_in_bytes", 0))
    return memory


def needed(memory: dict[str, int], device: jax.Device) -> int:
    """Return the bytes that have to fit: the peak of a TPU, whose program lies there too. Other
    compilers leave temporaries out of their peak, or were not tried: for them it is the total.
    """
    return memory["peak"] + memory["generated_code"] if device.platform == "tpu" else memory["total"]


def refusal(error: jax.errors.JaxRuntimeError) -> str:
    """Return the compiler's sentence about a program that does not fit; raise any other error."""
    if NO_MEMORY not in str(error):
        raise error
    return str(error).split("\n\n")[0].removeprefix(f"{NO_MEMORY}: ")


def in_refusal(what: re.Pattern[str], reason: str) -> int:
    """Return the bytes that the compiler's sentence gives.

    Raises:
      UserError: If it gives none, so that nothing can be compared.
    """
    match = what.search(reason)
    if match is None:
        raise UserError(f"the step does not fit, and the compiler does not say by how much: {reason}")
    return round(float(match[1]) * GIB)


def device_bytes(tree: Any) -> int:
    """Return the bytes of one device's shards of arrays, from their shapes and shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def adamw_state_bytes(run: Pretrain, mesh: Mesh) -> int:
    """Return the bytes of AdamW's state on one device."""
    adamw = dataclasses.replace(run, optimizer=default_optimizer("adamw", run.model.model))
    state = planned_program(adamw, mesh).state
    return device_bytes((state.opt_state, state.step))
