"""What would a step of a large model take of each device, and what would they send? The tables of
docs/planning.md.

    python -m benchmarks.plans
    python -m benchmarks.plans --models 7b --meshes fsdp=64 --topology v5e:8x8

`python -m train plan` for every model, mesh and optimizer, each in a process of its own, as the
number of devices of a process is fixed when it starts. A batch has one window for each device.
Prints Markdown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import flags, measure
from benchmarks.children import ROOT
from models import CONFIGS
from train.config.optimizers import OptimizerName

MODELS = ("7b", "70b")
MESHES = ("fsdp=8", "fsdp=64", "data=8,fsdp=64")
METHODS = ("adamw", "grassjump")
HEADER = (
    "model", "mesh", "devices", "optimizer", "parameters, GB", "gradients, GB", "state, GB", "temporaries, GB",
    "total, GB", "at most at one time, GB", "sent in a step, GB", "at a refresh besides, GB", "compiled in, s",
)  # fmt: skip


def planned(model: str, mesh: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """One plan, from a process of its own."""
    words = ["--model", model, "--mesh", mesh, "--optimizer", method, "--seq-len", str(args.sequence)]
    words += ["--dtype", args.dtype, *(["--remat"] if args.remat else [])]
    words += ["--topology", args.topology] if args.topology else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        command = [sys.executable, "-m", "train", "plan", *words, "--json", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def row(model: str, mesh: str, method: str, found: dict[str, Any]) -> list[str]:
    """The cells of one plan."""
    held, compiled, sent = found["bytes"], found["compiled"], found["sent"]
    known = [held["parameters"], held["gradients"], held["optimizer_state"]]
    if compiled is None:
        planned_bytes: list[int | None] = [None] * 5
    else:
        totals = [sum(one["bytes"] for one in sent if one["at_refresh"] is refresh) for refresh in (False, True)]
        # A CPU's compiler does not count its temporaries in what is in use at one time.
        peak = compiled["peak"] if found["topology"] else None
        planned_bytes = [compiled["temp"], compiled["total"], peak, *totals]
    sizes = [gb(size) for size in [*known, *planned_bytes]]
    return [model, mesh, str(found["devices"]), method, *sizes, f"{found['compile_seconds']:.0f}"]


def gb(size: int | None) -> str:
    """Gigabytes, or a dash for what is not known."""
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
    result.add_argument("--methods", nargs="+", choices=list(OptimizerName), metavar="METHOD", default=list(METHODS))
    result.add_argument("--sequence", type=int, default=2048)
    result.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the products")
    result.add_argument("--no-remat", dest="remat", action="store_false", help="keep what the forward pass computes")
    result.add_argument("--topology", default="", help="compile for these TPUs")
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Plan, print, write, and return what was written."""
    args = parser().parse_args(arguments)
    cases = [(model, mesh, name) for model in args.models for mesh in args.meshes for name in args.methods]
    plans = []
    for case in cases:
        plans.append(planned(*case, args))
        print(".", end="", file=sys.stderr, flush=True)
    lines = [row(*case, found) for case, found in zip(cases, plans, strict=True)]
    print(f"\n{markdown(lines)}")
    tables = [{"rows": plans}]
    measure.write_json(args.json, args, measure.machine(), tables)
    return tables


if __name__ == "__main__":
    main()
