"""How far is a regular step from the limits of the machine?

    python -m benchmarks.roofline --size 60m

A plain copy and plain matrix products run in the same rounds as the steps and set the ceilings. The
least traffic and arithmetic of a step come from the model `COSTS`: matrix products read their
factors from memory and write their results to it, and everything between them is fused. Two lower
bounds follow: the larger of the times for traffic and arithmetic, if they overlap perfectly, and
their sum, if they do not overlap.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import flags, measure
from benchmarks.contestants import JAX_CONTESTANTS, refresh_gap
from benchmarks.measure import Contestant
from benchmarks.shapes import Problem, make_problem
from benchmarks.step import Weights, donated

BYTES = 4  # float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a regular step for one matrix m x n (m <= n) at rank r, `optax.apply_updates`
    included.
    """

    mn: int  # numbers moved, in units of mn,
    mr: int  # of mr
    rn: int  # and of rn
    products: int  # matrix products, of 2mnr operations each


# G is read for the projection and for the residual; U, the result of a product, is written and
# read; W is read and written; S is read; M and V are read and written. A basis that is not stored
# is written and read.
_SPLIT = Cost(mn=6, mr=1, rn=4, products=2)
COSTS = {
    "adamw": Cost(mn=7, mr=0, rn=0, products=0),  # G; M, V and W twice
    "grassjump": _SPLIT,
    "grassjump-gaussian": _SPLIT,
    "grassjump-unstored": dataclasses.replace(_SPLIT, mr=2),
    "grassjump-unstored-gaussian": dataclasses.replace(_SPLIT, mr=2),
    "grasswalk": _SPLIT,
    "subtrack": _SPLIT,
    "fira": _SPLIT,
    "fira-randomized": _SPLIT,
    "galore": dataclasses.replace(_SPLIT, mn=5),  # G once
    "galore-randomized": dataclasses.replace(_SPLIT, mn=5),
    "apollo": Cost(mn=4, mr=2, rn=4, products=1),  # G twice, W twice: nothing is lifted
    "apollo-stored": Cost(mn=4, mr=1, rn=4, products=1),
}
METHODS = ("adamw", "grassjump", "grasswalk", "galore-randomized", "apollo")


def least_bytes(cost: Cost, matrices: list[tuple[int, int]], rank: int) -> int:
    """Least bytes that a step moves."""
    total = 0
    for shape in matrices:
        m, n = sorted(shape)
        total += cost.mn * m * n + cost.mr * m * rank + cost.rn * rank * n
    return BYTES * total


def least_operations(cost: Cost, matrices: list[tuple[int, int]], rank: int) -> int:
    """Floating-point operations of the products of a step."""
    return sum(cost.products * 2 * m * n * rank for m, n in matrices)


def _plain(function: Callable[..., Any], *arguments: Any, donates: bool = False) -> Callable[[], None]:
    """A function to be timed; with `donates`, its result is its next argument."""
    compiled = jax.jit(function, donate_argnums=(0,) if donates else ()).lower(*arguments).compile()
    held = arguments

    def run() -> None:
        nonlocal held
        result = jax.block_until_ready(compiled(*held))
        held = (result,) if donates else held

    return run


def ceilings(problem: Problem, megabytes: int, width: int) -> tuple[list[Contestant], dict[str, float]]:
    """A copy in place, a square product, and the products of a step on the problem's shapes, with
    the bytes or operations of each.
    """
    key, rank = jax.random.key(0), problem.rank
    vector = jnp.ones(megabytes * 2**20 // BYTES)
    square = jax.random.normal(key, (width, width))
    pairs = []
    for shape in problem.shapes.values():
        batch, (m, n) = shape[:-2], sorted(shape[-2:])
        pairs.append((jax.random.normal(key, (*batch, m, rank)), jax.random.normal(key, (*batch, m, n))))

    def project_and_lift(pairs: Any) -> Any:
        projected = [(s, jnp.swapaxes(s, -1, -2) @ g) for s, g in pairs]
        return [s @ g for s, g in projected]

    contestants = [
        Contestant("copy", _plain(lambda x: x + 1, vector, donates=True)),
        Contestant("square product", _plain(jnp.matmul, square, square)),
        Contestant("products of these shapes", _plain(project_and_lift, pairs)),
    ]
    shapes = sum(4 * math.prod(g.shape) * rank for _, g in pairs)
    return contestants, {
        "copy": 2.0 * vector.nbytes, "square product": 2.0 * width**3, "products of these shapes": float(shapes)
    }  # fmt: skip


def measured(problem: Problem, names: list[str], steps: int, warmup: int, megabytes: int, width: int) -> dict[str, Any]:
    """Time ceilings and steps in the same rounds, and compare them."""
    weights = Weights(problem)
    plain, amounts = ceilings(problem, megabytes, width)
    updates = donated([JAX_CONTESTANTS[name](problem) for name in names], weights)
    steppers = [Contestant(name, step, refresh_gap(name, problem)) for name, step in zip(names, updates, strict=True)]
    seconds = measure.take_turns([*plain, *steppers], steps)
    times = {
        c.name: measure.spread(list(measure.sort_out(seconds[c.name], c.gap, warmup).regular.values()))
        for c in [*plain, *steppers]
    }
    rates = {name: amount / _median(times[name]) for name, amount in amounts.items()}
    top = [{"name": name, "seconds": times[name], "per_second": rate} for name, rate in rates.items()]
    rows = [row(name, problem, times[name], rates) for name in names]
    return {"ceilings": top, "rows": rows, "base": names[0]}


def _median(times: dict[str, float] | None) -> float:
    if times is None:
        raise SystemExit("No regular step was timed: increase --steps.")
    return times["median"]


def row(name: str, problem: Problem, times: dict[str, float] | None, rates: dict[str, float]) -> dict[str, Any]:
    """One method relative to the ceilings."""
    cost, matrices, step = COSTS[name], problem.matrices, _median(times)
    moved, computed = least_bytes(cost, matrices, problem.rank), least_operations(cost, matrices, problem.rank)
    for_bytes, for_products = moved / rates["copy"], computed / rates["square product"]
    return {
        "name": name,
        "seconds": times,
        "bytes": moved,
        "operations": computed,
        "bytes_rate_over_copy": for_bytes / step,
        "operations_rate_over_product": for_products / step,
        "floor_max_seconds": max(for_bytes, for_products),
        "floor_sum_seconds": for_bytes + for_products,
        "step_over_floor_max": step / max(for_bytes, for_products),
        "step_over_floor_sum": step / (for_bytes + for_products),
    }


def text(result: dict[str, Any]) -> str:
    """The ceilings, then the methods."""
    units = {"copy": "GB/s"}
    top = [
        [t["name"], measure.milliseconds(t["seconds"]),
         f"{t['per_second'] / 1e9:.1f} {units.get(t['name'], 'GFLOP/s')}"]
        for t in result["ceilings"]
    ]  # fmt: skip
    header = [
        "", "step ms [min, max]", "GB", "GFLOP", "of the copy's rate", "of the product's", "floor ms, max",
        "step over it", "floor ms, sum", "step over it",
    ]  # fmt: skip
    rows = [
        [
            r["name"], measure.milliseconds(r["seconds"]), f"{r['bytes'] / 1e9:.3f}", f"{r['operations'] / 1e9:.2f}",
            f"{r['bytes_rate_over_copy']:.0%}", f"{r['operations_rate_over_product']:.0%}",
            f"{1e3 * r['floor_max_seconds']:.2f}", measure.number(r["step_over_floor_max"]),
            f"{1e3 * r['floor_sum_seconds']:.2f}", measure.number(r["step_over_floor_sum"]),
        ]
        for r in result["rows"]
    ]  # fmt: skip
    return f"{measure.table(['', 'ms [min, max]', 'reached'], top)}\n\n{measure.table(header, rows)}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("roofline", __doc__)
    flags.add_matrices(result)
    result.add_argument("--methods", nargs="+", choices=COSTS, metavar="METHOD", default=list(METHODS))
    result.add_argument("--steps", type=int, default=23)
    result.add_argument("--warmup", type=int, default=3, help="steps that are not counted, including the first")
    result.add_argument("--copy-megabytes", type=int, help="256 on a CPU, 2048 elsewhere")
    result.add_argument("--product-width", type=int, help="2048 on a CPU, 8192 elsewhere")
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    large = jax.default_backend() != "cpu"
    megabytes = args.copy_megabytes or (2048 if large else 256)
    width = args.product_width or (8192 if large else 2048)
    where, tables = measure.machine(), []
    measure.say_where(where)
    for layout in args.layouts:
        problem = make_problem(args.size, stacked=layout == "stacked", gap=args.steps + 1, layers=args.layers)
        result = measured(problem, args.methods, args.steps, args.warmup, megabytes, width)
        tables.append({"size": args.size, "layout": layout, "rank": problem.rank} | result)
        print(f"\n{args.size}, {layout}, rank {problem.rank}\n{text(result)}", flush=True)
        measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
