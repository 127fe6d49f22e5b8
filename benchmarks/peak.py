"""How much memory does an optimizer's state take, and how much more does a step?

    python -m benchmarks.peak --size 60m

For the donated step, in units of one gradient's bytes: the state (exact, from shapes), the
temporaries as planned by the compiler, and on a GPU the allocator's peak over a first, a refresh
and a regular step, minus weights, gradients and state. Each contestant runs in a separate process.
"""

import argparse
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

import grass_optax
from benchmarks import children, flags, measure
from benchmarks.contestants import JAX_CONTESTANTS, CannotRun
from benchmarks.shapes import Problem, make_problem
from benchmarks.step import Step, donated_step

METHODS = (
    "adamw", "muon", "optax-galore", "grassjump", "grassjump-unstored", "grasswalk", "subtrack", "galore-randomized",
    "fira-randomized", "apollo", "apollo_mini", "ldadam", "frugal", "badam", "column_sgd", "racs", "sinkgd", "foam",
    "gwt", "alice",
)  # fmt: skip
STEPS, GAP = 4, 2  # first, regular, refresh, regular


def of_one(name: str, problem: Problem) -> dict[str, Any]:
    """All figures of one contestant; to be called in a separate process."""
    tx = JAX_CONTESTANTS[name](problem)
    state = jax.eval_shape(tx.init, problem.abstract)
    step = donated_step(tx).lower(problem.abstract, state, problem.abstract).compile()
    report = grass_optax.memory_report(tx, problem.abstract)
    return {
        "state_bytes": report.total_bytes,
        "adam_bytes": report.adam_bytes,
        "gradient_bytes": problem.gradient_bytes,
        "compiled": children.compiled_bytes(step),
        "allocator": _after_steps(tx, step, problem) if children.allocator_bytes() else None,
    }


def _after_steps(tx: Any, step: Step, problem: Problem) -> dict[str, int] | None:
    """The allocator after some steps. Weights are constant, as drawing them could take more memory
    than a step.
    """
    params, grads = (
        {name: jnp.full(shape, x, jnp.float32) for name, shape in problem.shapes.items()} for x in (0.02, 1e-3)
    )
    state = jax.jit(tx.init)(params)
    for _ in range(STEPS):
        params, state = step(params, state, grads)
    jax.block_until_ready((params, state))
    return children.allocator_bytes()


def row(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures in units of one gradient's bytes."""
    if "error" in figures or "missing" in figures:
        return {"name": name} | figures
    unit, allocator = figures["gradient_bytes"], figures["allocator"]
    held = 2 * unit + figures["state_bytes"]
    return {
        "name": name,
        "state": figures["state_bytes"] / unit,
        "state_over_adam": figures["state_bytes"] / figures["adam_bytes"],
        "compiled_temporary": figures["compiled"]["temp"] / unit,
        "allocator_temporary": (allocator["peak"] - held) / unit if allocator else None,
        "allocator_peak": allocator["peak"] / unit if allocator else None,
    } | figures


def text(rows: list[dict[str, Any]]) -> str:
    """The table, in units of one gradient's bytes except the third column."""
    header = ["", "state", "state over Adam's", "temporary, planned", "temporary, allocated", "peak with weights"]
    keys = ("state", "state_over_adam", "compiled_temporary", "allocator_temporary", "allocator_peak")
    complete = [r for r in rows if "state" in r]
    lines = [measure.table(header, [[r["name"], *(measure.number(r[k], 3) for k in keys)] for r in complete])]
    lines += [f"{r['name']}: not run, {r.get('missing') or r['error']}" for r in rows if "state" not in r]
    if any(r["allocator"] is None for r in complete):
        lines.append("Allocator figures are not available on CPU.")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("peak", __doc__)
    flags.add_matrices(result)
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    flags.add_jobs(result)
    result.add_argument("--one", choices=JAX_CONTESTANTS, help=argparse.SUPPRESS)  # in the child
    return result


def child(args: argparse.Namespace) -> None:
    """Print the figures of one contestant as JSON."""
    problem = make_problem(args.size, stacked=args.layouts[0] == "stacked", gap=GAP, layers=args.layers)
    try:
        figures = of_one(args.one, problem)
    except CannotRun as reason:
        figures = {"missing": str(reason)}
    print(json.dumps(figures | {"machine": measure.machine()}))


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables. This process does not use the device."""
    args = parser().parse_args(arguments)
    if args.one:
        child(args)
        return []
    where: dict[str, Any] = {}
    tables = []
    for layout in args.layouts:
        words = ["--size", args.size, "--layouts", layout]
        words += ["--layers", str(args.layers)] if args.layers else []
        rows = []
        lines = [[*words, "--one", name] for name in args.methods]
        for name, figures in zip(args.methods, children.in_children("benchmarks.peak", lines, args.jobs), strict=True):
            where = figures.pop("machine", where)
            rows.append(row(name, figures))
            print(".", end="", file=sys.stderr, flush=True)
        tables.append({"size": args.size, "layout": layout, "rows": rows})
        print(f"\n{args.size}, {layout}; in units of one gradient\n{text(rows)}", flush=True)
    if where:
        measure.say_where(where)
    measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
