"""What would a step of a large model cost per device? Prints the tables of docs/guides/planning.md.

    python -m benchmarks.plans
    python -m benchmarks.plans --models 7b --meshes fsdp=64 --topology v5e:8x8

Runs `python -m train plan` for every model, mesh and optimizer, each in a separate process, because
the number of devices of a process is fixed at its start. A batch has one window per device.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

from benchmarks import flags, measure
from benchmarks.children import ROOT
from models import CONFIGS
from train.config.optimizers import OPTIMIZERS
from train.config.run import LogitsName
from train.plan.command import DoesNotFit

MODELS = ("7b", "70b")
MESHES = ("fsdp=8", "fsdp=64", "data=8,fsdp=64")
METHODS = ("adamw", "grassjump")
HEADER = (
    "model", "mesh", "devices", "optimizer", "parameters, GB", "gradients, GB", "state, GB", "temporaries, GB",
    "total, GB", "peak, GB", "sent in a step, GB", "additionally at a refresh, GB", "compile time, s",
)  # fmt: skip


def planned(model: str, mesh: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """One plan, made in a separate process."""
    words = ["--model", model, "--mesh", mesh, "--optimizer", method, "--seq-len", str(args.sequence)]
    words += ["--precision", "float32" if args.dtype == "float32" else "mixed"]
    words += ["--remat", "block" if args.remat else "none", "--logits", args.logits, "--no-remedies"]
    words += ["--topology", args.topology] if args.topology else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        command = [sys.executable, "-m", "train", "plan", *words, "--json", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in (0, DoesNotFit.status):
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        plan: dict[str, Any] = json.loads(path.read_text())
    return plan


def row(model: str, mesh: str, method: str, plan: dict[str, Any]) -> list[str]:
    """The cells of one plan."""
    held, compiled, sent = plan["bytes"], plan["compiled"], plan["sent"]
    known = [held["parameters"], held["gradients"], held["optimizer_state"]]
    if compiled is None:
        planned_bytes: list[int | None] = [None] * 5
    else:
        totals = [sum(x["bytes"] for x in sent if x["conditional"] is at_refresh) for at_refresh in (False, True)]
        # A CPU compiler does not include temporaries in its peak.
        peak = compiled["peak"] if plan["topology"] else None
        planned_bytes = [compiled["temp"], compiled["total"], peak, *totals]
    sizes = [gb(size) for size in [*known, *planned_bytes]]
    return [model, mesh, str(plan["devices"]), method, *sizes, f"{plan['compile_seconds']:.0f}"]


def gb(size: int | None) -> str:
    """Gigabytes, or a dash if not known."""
    return measure.number(None if size is None else size / 1e9, 3)


def markdown(rows: list[list[str]]) -> str:
    """The table."""
    lines = [list(HEADER), ["---", "---", "---:", "---", *["---:"] * (len(HEADER) - 4)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("plans", __doc__)
    result.add_argument("--models", nargs="+", choices=CONFIGS, default=list(MODELS), metavar="MODEL")
    result.add_argument("--meshes", nargs="+", default=list(MESHES))
    result.add_argument("--methods", nargs="+", choices=list(OPTIMIZERS), metavar="METHOD", default=list(METHODS))
    result.add_argument("--sequence", type=int, default=2048)
    result.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="precision of the matrix products"
    )
    result.add_argument(
        "--no-remat", dest="remat", action="store_false", help="store the activations of the forward pass"
    )
    result.add_argument("--logits", choices=get_args(LogitsName), default="auto", help="as for the trainer")
    result.add_argument("--topology", default="", help="compile for these TPUs")
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Plan, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    cases = [(model, mesh, name) for model in args.models for mesh in args.meshes for name in args.methods]
    plans = []
    for case in cases:
        plans.append(planned(*case, args))
        print(".", end="", file=sys.stderr, flush=True)
    lines = [row(*case, plan) for case, plan in zip(cases, plans, strict=True)]
    print(f"\n{markdown(lines)}")
    tables = [{"rows": plans}]
    measure.write_json(args.json, args, measure.machine(), tables)
    return tables


if __name__ == "__main__":
    main()
