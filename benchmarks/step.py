"""How long does a step take, with and without a refresh, compared with AdamW and other packages?

    python -m benchmarks.step --size 60m
    python -m benchmarks.step --layouts stacked --steps 1000 --methods adamw grassjump grasswalk

A "donated" step is that of a training loop: the update and `optax.apply_updates` in one program
that may reuse the memory of weights and state. "Undonated" is `tx.update` alone, with its results
in new memory, as optimizers are often timed; AdamW then pays for new pages of more than twice the
size of the gradients, and every ratio to it looks better. All JAX contestants step the same weights
in turn, with the same gradients.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from benchmarks import flags, measure, torch_peers
from benchmarks.contestants import EXACT_SVD, JAX_CONTESTANTS, optimizers, own_gap, refresh_gap
from benchmarks.measure import Contestant
from benchmarks.shapes import Problem, make_problem, random_grads, random_params

METHODS = (
    "adamw", "adamw-again", "muon", "optax-galore", "rollfast-galore", "rollfast-apollo", "grassjump",
    "grassjump-unstored", "grasswalk", "subtrack", "galore", "galore-randomized", "fira", "fira-randomized", "apollo",
    "ldadam", "frugal", "column_sgd", "racs", "sinkgd", "foam", "gwt", "alice", *torch_peers.TORCH_CONTESTANTS,
)  # fmt: skip
MODES = ("donated", "undonated")


class Weights:
    """The weights that all JAX contestants step, and the gradients they use."""

    def __init__(self, problem: Problem) -> None:
        self.params = random_params(problem)
        self.grads = random_grads(problem)


Step = Callable[[Any, Any, Any], tuple[Any, Any]]  # weights, state, gradients -> weights, state


def donated_step(tx: optax.GradientTransformation) -> Any:
    """A jitted `Step`: update and apply, in the memory of the old weights and state."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def donated(txs: Sequence[optax.GradientTransformation], weights: Weights) -> list[Callable[[], None]]:
    """The step of a training loop with each of several optimizers."""

    def stepper(compiled: Any, held: Any) -> Callable[[], None]:
        def run() -> None:
            nonlocal held
            weights.params, held = compiled(weights.params, held, weights.grads)
            jax.block_until_ready((weights.params, held))

        return run

    states = [jax.jit(tx.init)(weights.params) for tx in txs]
    steps = [donated_step(tx).lower(weights.params, s, weights.grads) for tx, s in zip(txs, states, strict=True)]
    return list(map(stepper, measure.compiled(steps), states))


def undonated(txs: Sequence[optax.GradientTransformation], weights: Weights) -> list[Callable[[], None]]:
    """The update alone, with updates and state in new memory."""

    def stepper(compiled: Any, held: Any) -> Callable[[], None]:
        def run() -> None:
            nonlocal held
            updates, held = compiled(weights.grads, held, weights.params)
            jax.block_until_ready((updates, held))

        return run

    states = [jax.jit(tx.init)(weights.params) for tx in txs]
    steps = [jax.jit(tx.update).lower(weights.grads, s, weights.params) for tx, s in zip(txs, states, strict=True)]
    return list(map(stepper, measure.compiled(steps), states))


def jax_contestants(names: list[str], problem: Problem, mode: str) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run, and why the others cannot."""
    txs, missing = optimizers(names, problem)
    steps = (donated if mode == "donated" else undonated)(list(txs.values()), Weights(problem))
    found = [Contestant(name, step, refresh_gap(name, problem)) for name, step in zip(txs, steps, strict=True)]
    return found, missing


def donated_only(names: list[str]) -> dict[str, str]:
    """Why some contestants are not timed without donation."""
    reasons = dict.fromkeys(EXACT_SVD, "its SVD takes as long as donated")
    reasons |= dict.fromkeys(torch_peers.TORCH_CONTESTANTS, "updates the weights in place: see donated")
    return {name: reasons[name] for name in names if name in reasons}


def measured(problem: Problem, mode: str, names: list[str], steps: int, warmup: int) -> dict[str, Any]:
    """Time the contestants on one problem; the first that runs is the base of the ratios."""
    left_out = {} if mode == "donated" else donated_only(names)
    jax_names = [name for name in names if name in JAX_CONTESTANTS and name not in left_out]
    torch_names = [name for name in names if name not in JAX_CONTESTANTS and name not in left_out]
    contestants, missing = jax_contestants(jax_names, problem, mode)
    peers, absent = torch_peers.torch_contestants(torch_names, problem)
    contestants, missing = contestants + peers, missing | absent | left_out
    seconds = measure.take_turns(contestants, steps)
    times = {c.name: measure.sort_out(seconds[c.name], c.gap, warmup) for c in contestants}
    base = times[contestants[0].name]
    rows = [{"name": name} | measure.compare(t, base, own_gap(name)) for name, t in times.items()]
    return {"mode": mode, "base": contestants[0].name, "rows": rows, "missing": missing}


def text(result: dict[str, Any]) -> str:
    """The table of one problem."""
    base = result["base"]
    header = [
        "", "step ms [min, max]", f"over {base} [quartiles]", "refresh ms [min, max]", f"refresh over {base}",
        f"mean over {base}", "longest / median", "first ms",
    ]  # fmt: skip
    rows = [
        [
            row["name"],
            measure.milliseconds(row["regular_seconds"]),
            measure.quartiles(row["ratio"]),
            measure.milliseconds(row["refresh_seconds"]),
            measure.number(row["refresh_over_base"]),
            measure.number(row["mean_over_base"]),
            f"{measure.number(row['longest_over_median'])} (step {row['longest_step']})",
            f"{1e3 * row['first_seconds']:.0f}",
        ]
        for row in result["rows"]
    ]
    left_out = [f"{name}: not run, {reason}" for name, reason in result["missing"].items()]
    return "\n".join([measure.table(header, rows), *left_out])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = ", ".join([*JAX_CONTESTANTS, *torch_peers.TORCH_CONTESTANTS])
    result = flags.command("step", __doc__, f"Methods: {known}.")
    flags.add_matrices(result, flags.LAYOUTS)
    result.add_argument("--rank", type=int, help="another rank than the papers'")
    result.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    result.add_argument("--methods", nargs="+", metavar="METHOD", default=list(METHODS))
    result.add_argument("--steps", type=int, default=41, help="steps per contestant; 1000 to see rare long steps")
    result.add_argument("--warmup", type=int, default=3, help="steps that are not counted, including the first")
    result.add_argument("--gap", type=int, default=10, help="steps between refreshes")
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    unknown = set(args.methods) - set(JAX_CONTESTANTS) - set(torch_peers.TORCH_CONTESTANTS)
    if unknown or args.methods[0] not in JAX_CONTESTANTS:
        raise SystemExit(
            f"--methods has unknown names, or does not begin with a JAX one: {unknown or args.methods[0]}."
        )
    if torch_peers.uses_cuda():
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave PyTorch some memory
    where, tables = measure.machine(), []
    measure.say_where(where)
    for layout in args.layouts:
        for mode in args.modes:
            problem = make_problem(
                args.size, stacked=layout == "stacked", gap=args.gap, layers=args.layers, rank=args.rank
            )
            result = measured(problem, mode, args.methods, args.steps, args.warmup)
            tables.append({"size": args.size, "layout": layout, "rank": problem.rank} | result)
            print(f"\n{args.size}, {layout} ({len(problem.shapes)} leaves), rank {problem.rank}, {mode}")
            print(text(result), flush=True)
            measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
