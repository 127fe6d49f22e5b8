"""How does an optimizer change the cost of a whole training step: forward, backward, update?

    python -m benchmarks.train_step --model 1b --batch 32 --sequence 256 --dtype bfloat16
    python -m benchmarks.train_step --model 1b --batch 32 --sequence 256 --dtype bfloat16 --peak

Runs the trainer's own compiled step on a LLaMA and random tokens. The contestants take turns on the
same weights. With --peak, nothing is timed: each contestant runs in a separate process, which
reports its peak memory. Kernels are split at the papers' rank; embeddings, head and norms are left
to Adam. Requires Flax.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import grass_optax
from benchmarks import children, flags, measure
from benchmarks.contestants import JAX_CONTESTANTS, CannotRun, optimizers, own_gap, refresh_gap
from benchmarks.measure import Contestant
from benchmarks.shapes import RATE, SIZES, Problem, rank_of, stacked_only
from models import CONFIGS, LlamaConfig
from models.config import Remat
from train.program.chunks import chunk_of
from train.program.step import TrainState, first_state, make_backward_step, make_train_step
from train.program.task import LanguageModel, Rows

METHODS = ("adamw", "adamw-again", "muon", "grassjump", "grassjump-unstored", "grasswalk", "apollo")


def network(args: argparse.Namespace) -> LlamaConfig:
    """The configuration of the LLaMA."""
    remat: Remat = "block" if args.remat else "none"
    return dataclasses.replace(CONFIGS[args.model], dtype=args.dtype, param_dtype=args.param_dtype, remat=remat)


def language_model(args: argparse.Namespace) -> LanguageModel:
    """What is trained."""
    model = network(args)
    chunk = chunk_of("auto", model.vocab_size, args.batch, args.sequence)
    return LanguageModel(network=model, batch_size=args.batch, seq_len=args.sequence, chunk=chunk)


def rows(task: LanguageModel) -> Rows:
    """Random windows (batch, sequence + 1)."""
    shape = (task.batch_size, task.seq_len + 1)
    return Rows(jnp.asarray(np.random.default_rng(0).integers(0, task.network.vocab_size, shape), jnp.int32))


def _problem(args: argparse.Namespace) -> Problem:
    """The model's parameters: those with three axes are stacked kernels, which are split."""
    return Problem({"kernel": (1, 2, 2)}, rank_of(args.model), args.gap, stacked_only)


def lowered_step(tx: optax.GradientTransformation, args: argparse.Namespace) -> tuple[Any, Callable[[], TrainState]]:
    """The step of the trainer, to be compiled, and the function that draws its initial state."""
    task = language_model(args)
    rate = optax.constant_schedule(RATE)
    if args.update_in_backward:
        parts = task.parts()
        loss = grass_optax.ScannedLoss(embed=parts.begin, block=parts.layer, head=parts.end)
        train_step = make_backward_step(grass_optax.update_in_backward(loss, tx), rate, knows_norm=False)
    else:
        train_step = make_train_step(task.loss, tx, rate)
    step = jax.jit(train_step, donate_argnums=0)

    def initial() -> TrainState:
        return first_state(task.draw(seed=0), tx)

    return step.lower(jax.eval_shape(initial), rows(task)), initial


class Run:
    """The weights that all contestants step, and the tokens they use."""

    def __init__(self, args: argparse.Namespace) -> None:
        task = language_model(args)
        self.args, self.rows = args, rows(task)
        self.params = jax.jit(lambda: task.draw(seed=0))()

    def contestant(self, compiled: Any, tx: optax.GradientTransformation) -> Callable[[], None]:
        """One contestant's step, with its optimizer state."""
        state = jax.jit(tx.init)(self.params)
        count = jnp.zeros((), jnp.int32)

        def run() -> None:
            nonlocal state, count
            after, report = compiled(TrainState(count, self.params, state), self.rows)
            count, self.params, state = after
            jax.block_until_ready((after, report))

        return run


def timed(args: argparse.Namespace) -> dict[str, Any]:
    """Times of all contestants."""
    problem, run = _problem(args), Run(args)
    txs, missing = optimizers(args.methods, problem)
    steps = measure.compiled([lowered_step(tx, args)[0] for tx in txs.values()])
    contestants = [
        Contestant(name, run.contestant(step, tx), refresh_gap(name, problem))
        for (name, tx), step in zip(txs.items(), steps, strict=True)
    ]
    seconds = measure.take_turns(contestants, args.steps)
    times = {c.name: measure.sort_out(seconds[c.name], c.gap, args.warmup) for c in contestants}
    base = times[contestants[0].name]
    rows = [{"name": name} | measure.compare(t, base, own_gap(name)) for name, t in times.items()]
    return {"base": contestants[0].name, "rows": rows, "missing": missing}


def timed_text(result: dict[str, Any]) -> str:
    """The table of times."""
    base = result["base"]
    header = ["", "step ms [min, max]", f"over {base} [quartiles]", "refresh ms [min, max]", f"mean over {base}"]
    rows = [
        [
            row["name"], measure.milliseconds(row["regular_seconds"]), measure.quartiles(row["ratio"], 3),
            measure.milliseconds(row["refresh_seconds"]), measure.number(row["mean_over_base"], 3),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return "\n".join([measure.table(header, rows), *(f"{n}: not run, {r}" for n, r in result["missing"].items())])


def peak_of_one(args: argparse.Namespace) -> dict[str, Any]:
    """Memory of one contestant: planned by the compiler, and on a GPU the peak over a few steps."""
    try:
        lowered, initial = lowered_step(JAX_CONTESTANTS[args.one](_problem(args)), args)
    except CannotRun as reason:
        return {"missing": str(reason)}
    compiled = lowered.compile()
    allocator = children.allocator_bytes()
    if allocator:
        state, batch = jax.jit(initial)(), rows(language_model(args))
        for _ in range(2 * args.gap):
            state, report = compiled(state, batch)
        jax.block_until_ready((state, report))
        allocator = children.allocator_bytes()
    return {"compiled": children.compiled_bytes(compiled), "allocator": allocator}


def peaks(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Memory of every contestant. This process does not use the device."""
    where: dict[str, Any] = {}
    rows = []
    words = [[*_flags(args), "--gap", "2", "--one", name] for name in args.methods]
    for name, figures in zip(
        args.methods, children.in_children("benchmarks.train_step", words, args.jobs), strict=True
    ):
        where = figures.pop("machine", where)
        rows.append({"name": name} | figures)
    for row in rows:
        if "compiled" in row:
            row["planned_bytes"] = planned(row["compiled"])
            row["planned_ratio"] = row["planned_bytes"] / planned(rows[0]["compiled"])
            row["peak_ratio"] = row["allocator"]["peak"] / rows[0]["allocator"]["peak"] if row["allocator"] else None
    return {"base": args.methods[0], "rows": rows}, where


def planned(memory: dict[str, int]) -> int:
    """Total bytes of a program: arguments, results that do not alias them, and temporaries."""
    return memory["argument"] + memory["output"] - memory["alias"] + memory["temp"]


def _flags(args: argparse.Namespace) -> list[str]:
    flags = [f"--{name}={getattr(args, name)}" for name in ("model", "batch", "sequence", "dtype")]
    switches = [f"--{name}" for name in ("remat", "update-in-backward") if getattr(args, name.replace("-", "_"))]
    return [*flags, f"--param-dtype={args.param_dtype}", *switches]


def peaks_text(result: dict[str, Any]) -> str:
    """The table of memory."""
    base = result["base"]
    header = ["", "planned GB", f"over {base}", "allocated GB, peak", f"over {base}"]
    complete = [row for row in result["rows"] if "compiled" in row]
    rows = [
        [
            row["name"], f"{row['planned_bytes'] / 1e9:.3f}", measure.number(row["planned_ratio"], 3),
            f"{row['allocator']['peak'] / 1e9:.3f}" if row["allocator"] else "not available on CPU",
            measure.number(row["peak_ratio"], 3),
        ]
        for row in complete
    ]  # fmt: skip
    others = [row for row in result["rows"] if "compiled" not in row]
    left_out = [f"{row['name']}: not run, {row.get('missing') or row.get('error')}" for row in others]
    return "\n".join([measure.table(header, rows), *left_out])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("train_step", __doc__)
    result.add_argument("--model", choices=SIZES, default="tiny")
    result.add_argument("--batch", type=int, default=8)
    result.add_argument("--sequence", type=int, default=128)
    result.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of the matrix products"
    )
    result.add_argument("--param-dtype", choices=("float32", "bfloat16"), default="float32")
    result.add_argument("--remat", action="store_true")
    result.add_argument("--update-in-backward", action="store_true", help="each layer as soon as its gradient exists")
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    result.add_argument("--steps", type=int, default=33)
    result.add_argument("--warmup", type=int, default=3, help="steps that are not counted, including the first")
    result.add_argument("--gap", type=int, default=10, help="steps between refreshes")
    result.add_argument("--peak", action="store_true", help="memory instead of time")
    flags.add_jobs(result)
    result.add_argument("--one", choices=JAX_CONTESTANTS, help=argparse.SUPPRESS)  # in the child
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    if args.one:
        print(json.dumps(peak_of_one(args) | {"machine": measure.machine()}))
        return []
    if args.peak:
        result, where = peaks(args)
        lines = peaks_text(result)
    else:
        where, result = measure.machine(), timed(args)
        lines = timed_text(result)
    if where:
        measure.say_where(where)
    print(f"\n{args.model}, batch {args.batch} x {args.sequence}, {args.dtype}, rank {rank_of(args.model)}\n{lines}")
    tables = [{"model": args.model, "peak": args.peak} | result]
    measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
