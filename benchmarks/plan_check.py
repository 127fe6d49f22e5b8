"""How close is a plan's total to the memory that a step really takes?

    python -m benchmarks.plan_check --model 60m

Compares the planned total of all simulated CPU devices of a mesh with the growth of the process:
the peak of its resident memory during a few steps, minus its memory after compilation and before
the state was drawn. Each optimizer runs in a separate process. Linux only; for an accelerator use
`benchmarks.train_step --peak`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import children, flags, measure
from benchmarks.children import resident
from models import CONFIGS
from train.__main__ import parse
from train.config.optimizers import OPTIMIZERS
from train.plan.config import Plan, run_of_plan
from train.plan.cost import compiled_step, device_bytes
from train.program.program import Program, make_program, pretraining
from train.program.sharding import make_mesh
from train.system.devices import host_devices

METHODS = ("adamw", "grassjump")
DEVICES, STEPS = 8, 3
CLEAR = Path("/proc/self/clear_refs")


def of_one(args: argparse.Namespace) -> dict[str, Any]:
    """Planned and measured bytes of all devices together; to be called in a separate process."""
    words = ["--model", args.model, "--optimizer", args.one, "--seq-len", str(args.sequence)]
    config = parse(["plan", *words, "--mesh", f"fsdp={DEVICES}", "--batch-size", str(args.batch * DEVICES)])
    assert isinstance(config, Plan)
    run = run_of_plan(config, DEVICES)
    mesh = make_mesh(run.devices.mesh, run.data.batch_size)
    program = make_program(mesh, pretraining(run.model, run.data, mesh), run.optimizer, run.schedule, run.data.seed)
    step = compiled_step(program)
    held = device_bytes((program.state, program.batch))
    return {"planned": DEVICES * step["compiled"]["total"], "held": DEVICES * held, "measured": grown(program)}


def grown(program: Program) -> int:
    """Growth of the process during the draw of a state and a few steps."""
    draw = program.draw_state.lower().compile()  # type: ignore[attr-defined]
    step = program.train_step.lower(program.state, program.batch).compile()
    batch = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), program.batch)
    before, state = resident("VmRSS"), draw()
    jax.block_until_ready(state)
    CLEAR.write_text("5")  # reset the peak: drawing may have taken more than a step
    for _ in range(STEPS):
        state, report = step(state, batch)
    jax.block_until_ready((state, report))
    return resident("VmHWM") - before


def table(rows: list[dict[str, Any]]) -> str:
    """Megabytes of all devices together."""
    header = ["", "weights, state, batch, MB", "planned total, MB", "process grew by, MB", "measured over planned"]
    lines = [
        [r["name"], *(f"{r[key] / 1e6:.1f}" for key in ("held", "planned", "measured")), f"{r['ratio']:.2f}"]
        for r in rows
    ]
    return measure.table(header, lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("plan_check", __doc__)
    result.add_argument("--model", choices=CONFIGS, default="60m")
    result.add_argument("--batch", type=int, default=1, help="windows per device")
    result.add_argument("--sequence", type=int, default=256)
    result.add_argument("--methods", nargs="+", choices=list(OPTIMIZERS), metavar="METHOD", default=list(METHODS))
    result.add_argument("--one", choices=list(OPTIMIZERS), help=argparse.SUPPRESS)  # in the child
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    if args.one:
        host_devices(DEVICES)
        print(json.dumps(of_one(args) | {"machine": measure.machine()}))
        return []
    where: dict[str, Any] = {}
    rows = []
    for name in args.methods:
        words = ["--model", args.model, "--batch", str(args.batch), "--sequence", str(args.sequence), "--one", name]
        figures = children.in_a_child("benchmarks.plan_check", words)
        if "error" in figures:
            raise RuntimeError(f"{name}: {figures['error']}")
        where = figures.pop("machine")
        rows.append({"name": name, "ratio": figures["measured"] / figures["planned"]} | figures)
    measure.say_where(where)
    print(
        f"\n{args.model}, fsdp={DEVICES}, {args.batch} x {args.sequence} tokens per device: all devices\n{table(rows)}"
    )
    tables = [{"model": args.model, "devices": DEVICES, "rows": rows}]
    measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
