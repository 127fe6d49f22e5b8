"""Which operations take the time of a step, and how much memory does each read and write?

    python -m benchmarks.kernels --size 60m --methods adamw grassjump

Records a few donated steps without a refresh with `jax.profiler`, adds up the time of every
operation of the compiled program, and reads the arrays it touches from the program's text. An
operation that runs within another (the body of a loop) is counted for itself. On a GPU set
XLA_FLAGS=--xla_gpu_enable_command_buffer= so that each kernel is recorded by its own name.
"""

import argparse
import collections
import itertools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks import flags, measure
from benchmarks.contestants import JAX_CONTESTANTS
from benchmarks.shapes import make_problem
from benchmarks.step import Weights, donated_step
from hlo.kernels import all_kernels

METHODS = ("adamw", "grassjump", "grasswalk")
CALL = "call"  # the kernel that it runs is recorded by itself


def recorded(run: Callable[[], None], steps: int) -> dict[str, float]:
    """Seconds per step of every operation, from a profile of some steps."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
    # A GPU's plane also has lines that begin with XLA, derived from those of its streams.
    lines = [line for plane in profile.planes for line in plane.lines if not line.name.startswith("XLA")]
    seconds: dict[str, float] = collections.defaultdict(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of jaxlib's, at its first look at an event
        for event in itertools.chain.from_iterable(line.events for line in lines):
            name = dict(event.stats).get("hlo_op")
            if name is not None:
                seconds[str(name)] += event.duration_ns / 1e9 / steps
    return seconds


def measured(tx: Any, weights: Weights, steps: int) -> list[dict[str, Any]]:
    """The operations of a regular step, those that take longest first."""
    state = jax.jit(tx.init)(weights.params)
    compiled = donated_step(tx).lower(weights.params, state, weights.grads).compile()

    def run() -> None:
        nonlocal state
        weights.params, state = compiled(weights.params, state, weights.grads)
        jax.block_until_ready((weights.params, state))

    for _ in range(3):
        run()
    known = {one.name: one for one in all_kernels(compiled.as_text()) if one.opcode != CALL}
    rows = [
        known[name]._asdict() | {"seconds": seconds} for name, seconds in recorded(run, steps).items() if name in known
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def text(rows: list[dict[str, Any]], top: int) -> str:
    """The table of one method: its longest operations, and all of them together."""
    header = ["", "ms", "GB", "GB/s", "from"]
    chosen = [(r["name"], r["seconds"], r["read"] + r["written"], r["source"]) for r in rows]
    total = ("all", sum(c[1] for c in chosen), sum(c[2] for c in chosen), "")
    lines = [
        [
            name, f"{1e3 * seconds:.3f}", f"{moved / 1e9:.3f}", f"{moved / seconds / 1e9:.0f}" if seconds else "-",
            "/".join(source.split("/")[-3:]),
        ]
        for name, seconds, moved, source in [*chosen[:top], total]
    ]  # fmt: skip
    return measure.table(header, lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("kernels", __doc__)
    flags.add_matrices(result)
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    result.add_argument("--steps", type=int, default=5, help="steps that are recorded")
    result.add_argument("--top", type=int, default=20, help="operations that are printed")
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    where, tables = measure.machine(), []
    measure.say_where(where)
    for layout in args.layouts:
        problem = make_problem(args.size, stacked=layout == "stacked", gap=args.steps + 100, layers=args.layers)
        weights = Weights(problem)
        for name in args.methods:
            rows = measured(JAX_CONTESTANTS[name](problem), weights, args.steps)
            tables.append({"size": args.size, "layout": layout, "rank": problem.rank, "name": name, "rows": rows})
            print(f"\n{name}: {args.size}, {layout}, rank {problem.rank}\n{text(rows, args.top)}", flush=True)
            measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
