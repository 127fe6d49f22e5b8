"""How often does a step go over its arrays? Read from the compiled programs; nothing is timed.

    python -m benchmarks.passes --size 60m

A regular step, donated, as a training loop runs it. The unit is the size of one gradient of all
matrices: AdamW reads its gradient, its weights and two moments, and writes all but the first, so it
needs seven. Every kernel is counted as if it read its operands and wrote its result once.
"""

import argparse
from typing import Any

import jax

from benchmarks import flags, measure
from benchmarks.contestants import JAX_CONTESTANTS
from benchmarks.shapes import Problem, make_problem
from benchmarks.step import donated_step
from hlo.kernels import Kernel, regular_kernels

METHODS = ("adamw", "grassjump", "grassjump-blocks", "grassjump-columns", "frugal", "grasswalk", "apollo")
SMALLEST = 0.05  # of a gradient: kernels that move less are added up


def counted(problem: Problem, name: str) -> dict[str, Any]:
    """The passes of one method, and the memory that its program needs beside its arguments."""
    tx = JAX_CONTESTANTS[name](problem)
    state = jax.eval_shape(tx.init, problem.abstract)
    compiled = donated_step(tx).lower(problem.abstract, state, problem.abstract).compile()
    found, unit = regular_kernels(compiled.as_text()), problem.gradient_bytes
    memory: Any = compiled.memory_analysis()
    return {
        "name": name,
        "read": sum(one.read for one in found) / unit,
        "written": sum(one.written for one in found) / unit,
        "kernels": len(found),
        "temporaries": memory.temp_size_in_bytes / unit,
        "largest": [_row(one, unit) for one in found if one.read + one.written >= SMALLEST * unit],
    }


def _row(one: Kernel, unit: float) -> dict[str, Any]:
    return {"name": one.name, "source": one.source, "read": one.read / unit, "written": one.written / unit}


def text(rows: list[dict[str, Any]], details: bool) -> str:
    """The totals, and with `details` the largest kernels of each method."""
    header = ["", "read", "written", "together", "kernels", "temporaries"]
    totals = [
        [r["name"], *(f"{x:.2f}" for x in (r["read"], r["written"], r["read"] + r["written"])), str(r["kernels"]),
         f"{r['temporaries']:.2f}"]
        for r in rows
    ]  # fmt: skip
    parts = [measure.table(header, totals)]
    for row in rows if details else []:
        largest = [
            [one["name"], f"{one['read']:.2f}", f"{one['written']:.2f}", one["source"]] for one in row["largest"]
        ]
        parts.append(f"{row['name']}\n{measure.table(['kernel', 'read', 'written', 'from'], largest)}")
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile, print, write, and return the rows."""
    result = flags.command("passes", __doc__)
    flags.add_matrices(result)
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    result.add_argument("--details", action="store_true", help="also print the largest kernels of each method")
    args: argparse.Namespace = result.parse_args(arguments)
    where, tables = measure.machine(), []
    for layout in args.layouts:
        problem = make_problem(args.size, stacked=layout == "stacked", gap=10, layers=args.layers)
        rows = [counted(problem, name) for name in args.methods]
        tables.append({"size": args.size, "layout": layout, "rank": problem.rank, "rows": rows})
        print(f"\n{args.size}, {layout}, rank {problem.rank}, in gradients\n{text(rows, args.details)}", flush=True)
        measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
