"""How does the traffic of a training step grow with the number of devices, at a fixed batch per
device?

    python -m benchmarks.weak_scaling --model 60m

Bytes sent by each device in the trainer's whole step, on 1, 2, 4 and 8 devices that shard weights
and state (fsdp), each with its own windows; read from the compiled program, nothing is run. The
excess over AdamW is the optimizer's share, as forward and backward are the same. As in
`benchmarks.communication`, a CPU's all-reduce and slice replace a reduce-scatter, which sends half.
"""

import argparse
from typing import Any

import jax

from benchmarks import flags, measure
from hlo.traffic import Sent, total_bytes
from models import CONFIGS
from train.__main__ import parse
from train.config.optimizers import OPTIMIZERS
from train.plan.config import Plan, run_of_plan
from train.plan.cost import planned_program, planned_step
from train.program.sharding import make_mesh
from train.system.devices import host_devices

METHODS = ("adamw", "grassjump", "grasswalk")
DEVICES = (1, 2, 4, 8)


def row(name: str, devices: int, args: argparse.Namespace) -> dict[str, Any]:
    """Traffic of one device with one optimizer: in a step, and additionally at a refresh."""
    words = ["--model", args.model, "--optimizer", name, "--seq-len", str(args.sequence), "--mesh", f"fsdp={devices}"]
    config = parse(["plan", *words, "--batch-size", str(args.batch * devices)])
    assert isinstance(config, Plan)
    run = run_of_plan(config, devices)
    mesh = make_mesh(run.devices.mesh, run.data.batch_size, jax.devices()[:devices])
    plan = planned_step(run, planned_program(run, mesh))
    sent = [Sent(**collective) for collective in plan["sent"]]
    return {
        "name": name,
        "devices": devices,
        "every_step": total_bytes(sent),
        "refresh": total_bytes(sent, conditional=True),
        "sent": plan["sent"],
    }


def over_adamw(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their excess over AdamW on as many devices; None without AdamW."""
    base = {r["devices"]: r["every_step"] for r in rows if r["name"] == "adamw"}
    return [{**r, "over_adamw": r["every_step"] - base[r["devices"]] if base else None} for r in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Megabytes."""
    header = ["", "devices", "sent in a step, MB", "excess over adamw, MB", "additionally at a refresh, MB"]
    lines = [
        [r["name"], str(r["devices"]), *(mb(r[key]) for key in ("every_step", "over_adamw", "refresh"))] for r in rows
    ]
    return measure.table(header, lines)


def mb(size: int | None) -> str:
    """Megabytes, or a dash."""
    return measure.number(None if size is None else size / 1e6, 1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("weak_scaling", __doc__)
    result.add_argument("--model", choices=CONFIGS, default="60m")
    result.add_argument("--batch", type=int, default=4, help="windows per device")
    result.add_argument("--sequence", type=int, default=256)
    result.add_argument("--devices", nargs="+", type=int, choices=DEVICES, default=list(DEVICES))
    result.add_argument("--methods", nargs="+", choices=list(OPTIMIZERS), metavar="METHOD", default=list(METHODS))
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile, count, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    host_devices(max(args.devices))
    rows = over_adamw([row(name, devices, args) for name in args.methods for devices in args.devices])
    tables = [{"model": args.model, "batch_of_a_device": args.batch, "sequence": args.sequence, "rows": rows}]
    print(f"{args.model}, {args.batch} x {args.sequence} tokens per device: sent by each device\n{table(rows)}")
    measure.write_json(args.json, args, measure.machine(), tables)
    return tables


if __name__ == "__main__":
    main()
