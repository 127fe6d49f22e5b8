"""How does what a device sends in a training step grow with the devices, its own part of the batch
being fixed?

    python -m benchmarks.weak_scaling --model 60m

Bytes that each device sends in the whole step of the trainer, on 1, 2, 4 and 8 devices over which
weights and state are sharded (fsdp), each with its own windows; read from the compiled program,
nothing runs. What a method sends beyond AdamW is the optimizer's part, since forward and backward
are the same. As in `benchmarks.communication`, a CPU's all-reduce and slice stand for a
reduce-scatter, half of it.
"""

import argparse
from typing import Any

import jax

from benchmarks import flags, measure
from hlo.traffic import Sent, total_bytes
from models import CONFIGS
from train.__main__ import parse
from train.config.optimizers import OptimizerName
from train.plan.command import planned_step
from train.plan.config import Plan, run_of_plan
from train.program.sharding import make_mesh
from train.system.devices import host_devices

METHODS = ("adamw", "grassjump", "grasswalk")
DEVICES = (1, 2, 4, 8)


def row(name: str, devices: int, args: argparse.Namespace) -> dict[str, Any]:
    """What a device sends with one optimizer, in a step and beside that at a refresh."""
    words = ["--model", args.model, "--optimizer", name, "--seq-len", str(args.sequence), "--mesh", f"fsdp={devices}"]
    config = parse(["plan", *words, "--batch-size", str(args.batch * devices)])
    assert isinstance(config, Plan)
    run = run_of_plan(config, devices)
    found = planned_step(run, make_mesh(run.devices.mesh, run.data.batch_size, jax.devices()[:devices]))
    sent = [Sent(**one) for one in found["sent"]]
    return {
        "name": name,
        "devices": devices,
        "every_step": total_bytes(sent),
        "refresh": total_bytes(sent, at_refresh=True),
        "sent": found["sent"],
    }


def over_adamw(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with what AdamW does not send on as many devices; None without AdamW."""
    base = {r["devices"]: r["every_step"] for r in rows if r["name"] == "adamw"}
    return [{**r, "over_adamw": r["every_step"] - base[r["devices"]] if base else None} for r in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Megabytes."""
    header = ["", "devices", "sent in a step, MB", "beyond adamw's, MB", "at a refresh besides, MB"]
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
    result.add_argument("--batch", type=int, default=4, help="windows of each device")
    result.add_argument("--sequence", type=int, default=256)
    result.add_argument("--devices", nargs="+", type=int, choices=DEVICES, default=list(DEVICES))
    result.add_argument("--methods", nargs="+", choices=list(OptimizerName), metavar="METHOD", default=list(METHODS))
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile, count, print, write, and return what was written."""
    args = parser().parse_args(arguments)
    host_devices(max(args.devices))
    rows = over_adamw([row(name, devices, args) for name in args.methods for devices in args.devices])
    tables = [{"model": args.model, "batch_of_a_device": args.batch, "sequence": args.sequence, "rows": rows}]
    print(f"{args.model}, {args.batch} x {args.sequence} tokens a device: sent by each device\n{table(rows)}")
    measure.write_json(args.json, args, measure.machine(), tables)
    return tables


if __name__ == "__main__":
    main()
