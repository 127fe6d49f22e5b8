"""Do moments in fewer bits change the result of training? The held-out loss of `tiny` with each
precision of the moments, over seeds.

    python -m benchmarks.moments --run-dir runs/moments

Prints a Markdown table and writes the table and all losses to moments.json in the folder. Each run
is a separate process; running the command again makes only the missing runs.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TYPES = ("float32", "bfloat16", "float8")


def train(folder: Path, dtype: str, seed: int, optimizer: str, steps: int) -> dict[str, Any]:
    """Train with both moments in one precision, and return the summary."""
    run_dir = folder / f"{optimizer}-{dtype}-{seed}-{steps}"
    if not (run_dir / "summary.json").exists():
        options = ["--resume"] if run_dir.exists() else []
        flags = {
            "--model": "tiny", "--optimizer": optimizer, "--steps": steps, "--seed": seed, "--run-dir": run_dir,
            "--mu-dtype": dtype, "--nu-dtype": dtype, "--log-every": 100, "--sample-tokens": 0,
        }  # fmt: skip
        words = [str(word) for flag in flags.items() for word in flag]
        subprocess.run([sys.executable, "-m", "train", "pretrain", *words, *options], check=True, stdout=sys.stderr)
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def row(dtype: str, runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """Losses over seeds: mean, standard deviation, and mean difference from float32 at equal
    seeds.
    """
    losses, others = ([run["eval_loss"] for run in x] for x in (runs, reference))
    differences = [a - b for a, b in zip(losses, others, strict=True)]
    return {
        "moments": dtype,
        "optimizer_bytes": runs[0]["optimizer_bytes"],
        "eval_losses": losses,
        "mean": statistics.mean(losses),
        "spread": statistics.stdev(losses),
        "differences": differences,
        "difference": statistics.mean(differences),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the rows."""
    cells = [
        ["moments", "state, MB", "held-out loss", "spread over seeds", "from float32, by seed"],
        ["---", *["---:"] * 4],
    ]
    for x in rows:
        differences = ", ".join(f"{d:+.4f}" for d in x["differences"])
        megabytes = f"{x['optimizer_bytes'] / 1e6:.2f}"
        cells.append([x["moments"], megabytes, f"{x['mean']:.4f}", f"{x['spread']:.4f}", differences])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the runs and of moments.json")
    parser.add_argument("--optimizer", default="grassjump")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {dtype: [] for dtype in TYPES}
    for seed in args.seeds:  # seeds in the outer loop, so that an interrupted benchmark has comparable runs
        for dtype in TYPES:
            runs[dtype].append(train(args.run_dir, dtype, seed, args.optimizer, args.steps))
    rows = [row(dtype, runs[dtype], runs[TYPES[0]]) for dtype in TYPES]
    report = {"optimizer": args.optimizer, "steps": args.steps, "seeds": args.seeds, "rows": rows}
    (args.run_dir / "moments.json").write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
