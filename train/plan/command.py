"""`plan`: memory per device and traffic between devices of a training step, before it is run.

The trainer's own step is compiled ahead of time from shapes and shardings. Nothing is run or
allocated, so the devices need not be present: simulated CPU devices represent them, or a TPU
compiler compiles for a topology.
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from train.config.changes import Flags, words
from train.config.run import Pretrain, UserError
from train.config.validate import check
from train.plan.choice import Cost, Planned, alone, together
from train.plan.config import Plan, run_of_plan
from train.plan.cost import AVAILABLE, compiled_step, in_refusal, planned_program, planned_step
from train.plan.devices import planned_devices
from train.plan.parts import parts_of
from train.plan.report import advice, text, verdict
from train.plan.sizes import gb, parsed_size
from train.program.program import refuse_untraceable
from train.program.sharding import DATA, FSDP, make_mesh, mesh_sizes
from train.storage.folder import versions
from train.system.files import as_json, write_whole


class DoesNotFit(UserError):
    """The plan was made, and the step does not fit."""

    status = 4  # 1 is a crash of Python, 2 a mistake, 3 a run that diverged


def run_plan(config: Plan) -> None:
    """Compile, print, and write JSON if requested.

    Raises:
      DoesNotFit: If the step needs more memory than there is; after printing and writing.
    """
    path, limit = config.plan.json, parsed_size(config.plan.memory) if config.plan.memory else None
    if path is not None and not os.access(path.parent, os.W_OK):  # checked before minutes of compilation
        raise UserError(f"--json {path} cannot be written: choose a file in an existing, writable folder.")
    sizes = mesh_sizes(config.devices.mesh)
    shards = sizes[DATA] * sizes[FSDP]
    run = run_of_plan(config, shards)
    check(run)
    devices = planned_devices(config.plan, math.prod(sizes.values()))
    mesh = make_mesh(run.devices.mesh, run.data.batch_size, devices)
    program = planned_program(run, mesh)
    refuse_untraceable(program, run.optimizer.optimizer, run.devices.mesh)
    plan = planned_step(run, program) | {"topology": config.plan.topology, "versions": versions()}
    plan |= {
        "parts": parts_of(program, run.optimizer.keep_every),
        "memory": _memory(plan, limit),
        "remedies": [],
        "together": [],
    }
    print(text(plan), flush=True)
    if not plan["memory"]["fits"] and config.plan.remedies:
        plan |= _remedies(run, shards, plan, devices)
        print(f"\n{advice(plan)}")
    if path is not None:
        write_whole(path, as_json(plan))
    if not plan["memory"]["fits"]:
        raise DoesNotFit(verdict(plan))


def _memory(plan: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Return the memory of a device, if known, and whether the step fits into it."""
    if plan["does_not_fit"] is not None:
        available = in_refusal(AVAILABLE, plan["does_not_fit"])
        return {"limit": available if limit is None else min(limit, available), "fits": False}
    return {"limit": limit, "fits": limit is None or plan["needed"] <= limit}


def _remedies(run: Pretrain, shards: int, plan: dict[str, Any], devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Return the cost of each remedy alone, and of those to take."""

    def measure(run: Pretrain, flags: Flags) -> Cost:
        start = time.perf_counter()
        step = compiled_step(planned_program(run, make_mesh(run.devices.mesh, run.data.batch_size, devices)))
        seconds = time.perf_counter() - start
        print(f"{words(flags)}: needs {gb(step['needed'])}, compiled in {seconds:.0f} s", file=sys.stderr, flush=True)
        return Cost(step["needed"], step["operations"], run.data.batch_size * run.data.seq_len, seconds)

    tried = alone(run, shards, measure)
    taken = together(run, shards, plan["needed"], plan["memory"]["limit"], tried, measure)
    return {"remedies": [_as_json(one) for one in tried.values()], "together": [_as_json(one) for one in taken]}


def _as_json(one: Planned) -> dict[str, Any]:
    return {"flags": one.flags, "words": words(one.flags), "price": one.price, **one.cost._asdict()}
