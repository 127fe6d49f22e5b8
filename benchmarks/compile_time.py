"""How do compile time and program size of an optimizer grow with the number of leaves?

    python -m benchmarks.compile_time --leaves 56 112 224 500

The leaves are the matrices of one layer, unstacked and repeated. The number of weights grows with
them, but affects neither tracing nor compilation much. Nothing is allocated. JAX's caches are
cleared before each measurement, and the contestants take turns.
"""

import argparse
import random
import re
import statistics
import time
from typing import Any

import jax

from benchmarks import flags, measure
from benchmarks.contestants import JAX_CONTESTANTS
from benchmarks.shapes import SIZES, Problem, repeated
from benchmarks.step import donated_step

METHODS = ("adamw", "muon", "grassjump", "grasswalk", "apollo")


def compile_once(name: str, problem: Problem) -> dict[str, float]:
    """Seconds to trace and lower, seconds to compile, and the size of the program."""
    jax.clear_caches()
    tx = JAX_CONTESTANTS[name](problem)
    start = time.perf_counter()
    state = jax.eval_shape(tx.init, problem.abstract)
    lowered = donated_step(tx).lower(problem.abstract, state, problem.abstract)
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    compiled_at = time.perf_counter()
    return {"trace_seconds": lowered_at - start, "compile_seconds": compiled_at - lowered_at} | size_of(
        compiled.as_text() or ""
    )


def size_of(program: str) -> dict[str, float]:
    """Instructions, bytes and conditionals of an optimized program's HLO text."""
    instructions = re.findall(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*$", program, re.MULTILINE)
    conditionals = sum(1 for line in instructions if re.search(r" conditional\(", line))
    return {"instructions": len(instructions), "bytes": len(program.encode()), "conditionals": conditionals}


def rows_of(names: list[str], problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """The row of each contestant, with its ratio to the first."""
    order, shuffle = list(names), random.Random(0).shuffle
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            measured[name].append(compile_once(name, problem))
    totals = {name: [r["trace_seconds"] + r["compile_seconds"] for r in measured[name]] for name in names}
    base = statistics.median(totals[names[0]])
    return [
        {
            "name": name,
            "leaves": len(problem.shapes),
            "trace_seconds": measure.spread([r["trace_seconds"] for r in measured[name]]),
            "compile_seconds": measure.spread([r["compile_seconds"] for r in measured[name]]),
            "ratio": statistics.median(totals[name]) / base,
        }
        | {key: measured[name][0][key] for key in ("instructions", "bytes", "conditionals")}
        for name in names
    ]


def text(rows: list[dict[str, Any]]) -> str:
    """The table."""
    header = [
        "", "leaves", "trace s [min, max]", "compile s [min, max]", f"over {rows[0]['name']}", "instructions",
        "HLO kB", "conditionals",
    ]  # fmt: skip

    def seconds(values: dict[str, float]) -> str:
        return f"{values['median']:.2f} [{values['min']:.2f}, {values['max']:.2f}]"

    cells = [
        [
            row["name"], str(row["leaves"]), seconds(row["trace_seconds"]), seconds(row["compile_seconds"]),
            measure.number(row["ratio"]), str(row["instructions"]), str(row["bytes"] // 1000),
            str(row["conditionals"]),
        ]
        for row in rows
    ]  # fmt: skip
    return measure.table(header, cells)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("compile_time", __doc__)
    result.add_argument("--size", choices=SIZES, default="60m")
    result.add_argument("--leaves", nargs="+", type=int, default=[56, 112, 224, 500])
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    result.add_argument("--repeats", type=int, default=3)
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    where, tables = measure.machine(), []
    measure.say_where(where)
    for leaves in args.leaves:
        rows = rows_of(args.methods, repeated(args.size, leaves, gap=100), args.repeats)
        tables.append({"size": args.size, "leaves": leaves, "rows": rows})
        print(f"\n{text(rows)}", flush=True)
        measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
