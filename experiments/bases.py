"""Does it matter how a random subspace is drawn? The held-out loss of GrassJump with each basis.

    python -m experiments.bases

Writes a line for each run to docs/results/bases.jsonl, and prints the tables of
docs/results/bases.md. Finished runs are skipped.

Every contestant differs from GrassJump or GrassWalk only in its bases. Its learning rate is one of
which neither half nor twice is better, at one rank and interval, on a seed of its own; until it is
found, the trainer's default.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from optax.contrib import MuonDimensionNumbers

import grass_optax
from experiments import search
from experiments.pretraining import Outcome, Run, study_of
from experiments.reordered import strided
from experiments.study import command_line, row, run_command
from grass_optax import subspaces
from grass_optax.residual import recovery
from models.config import CONFIGS
from train.config.optimizers import OPTIMIZERS, Optimizer
from train.program.kernels import stacked_kernels

RESULTS = Path("docs/results/bases.jsonl")
SEEDS, SEED_OF_RATES = (0, 1, 2, 3), 100
HIDDEN = CONFIGS["tiny"].hidden_size
QUARTER, SIXTEENTH = HIDDEN // 4, HIDDEN // 16


class Rules(NamedTuple):
    """How a contestant makes its bases."""

    rule: subspaces.SubspaceRule
    initial: subspaces.SubspaceRule | None = None  # None: `rule`


def _jump(basis: subspaces.RandomBasis = "haar", blocks: int | None = None) -> Rules:
    return Rules(subspaces.random_jump(basis, blocks))


def _walk_of_blocks(blocks: int) -> Rules:
    walk, first = subspaces.random_walk(), subspaces.range_finder()
    return Rules(subspaces.by_blocks(walk, blocks), subspaces.by_blocks(first, blocks))


def _walk_with_jumps(every: int) -> Rules:
    rule = subspaces.interleave(subspaces.random_walk(), subspaces.random_jump(), every)
    return Rules(rule, subspaces.range_finder())


RULES: dict[str, Rules] = {
    "haar": _jump(),
    "gaussian": _jump("gaussian"),
    "blocks:4": _jump("blocks", 4),
    "blocks:8": _jump("blocks", 8),
    "blocks:16": _jump("blocks", 16),
    "cosine": _jump("cosine"),
    "columns": _jump("columns"),
    "blocks:8, every 8th row": Rules(strided(8)),
    "blocks:4, a head each": _jump("blocks", 4),
    "blocks:4, every 4th row": Rules(strided(4)),
    "walk": Rules(subspaces.random_walk(), subspaces.range_finder()),
    "walk, blocks:4": _walk_of_blocks(4),
    "walk, blocks:8": _walk_of_blocks(8),
    "walk, every 2nd a jump": _walk_with_jumps(2),
    "walk, every 5th a jump": _walk_with_jumps(5),
}
# The heads of q, k and v along m, too, so that each of the four heads of `tiny` is a block; every
# 4th row spreads each head over all blocks.
HEADS_FIRST = ("blocks:4, a head each", "blocks:4, every 4th row")


def _row(contestant: str) -> Optimizer:
    """The facts about the method whose bases a contestant replaces."""
    return OPTIMIZERS["grasswalk" if contestant.startswith("walk") else "grassjump"]


def _rate(contestant: str) -> float:
    """The default learning rate of that method."""
    return _row(contestant).pretraining(Run.model).learning_rate


def optimizer(run: Run, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """GrassJump or GrassWalk with the bases of a contestant."""
    rule, initial = RULES[run.contestant]
    direction = grass_optax.assemble(
        rule,
        grass_optax.transport.rotate(0.9, 0.999),
        recovery(1.01),
        rank=run.rank,
        update_proj_gap=run.update_proj_gap,
        scale=_row(run.contestant).scale,
        initial=initial,
        weight_dimension_numbers=heads_first if run.contestant in HEADS_FIRST else stacked_kernels,
        key=run.seed,
    )
    return grass_optax.with_rates(direction, learning_rate)


def heads_first(params: Any) -> Any:
    """The kernels of attention with their heads along m, where they are square."""

    def swapped(path: tuple[Any, ...], dims: MuonDimensionNumbers | None) -> MuonDimensionNumbers | None:
        of_heads = jax.tree_util.keystr(path, simple=True, separator="/").endswith(("q/kernel", "k/kernel", "v/kernel"))
        return MuonDimensionNumbers(2, 1) if dims is not None and of_heads else dims

    return jax.tree.map_with_path(
        swapped, stacked_kernels(params), is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers)
    )


class Table(NamedTuple):
    """A question: contestants at a rank and an interval, the first of which is the reference."""

    title: str
    contestants: tuple[str, ...]
    rank: int
    update_proj_gap: int


_JUMPS = tuple(RULES)[:7]
_NARROW = tuple(name for name in _JUMPS if name != "blocks:16")  # of a rank of 8
_WALKS = ("walk", "walk, blocks:4", "walk, blocks:8")
TABLES = (
    Table("Jumps", _JUMPS, QUARTER, 100),
    Table("Walks", _WALKS, QUARTER, 100),
    Table("Jumps at a low rank", _NARROW, SIXTEENTH, 100),
    Table("A block for each head, and heads over all blocks", ("blocks:4", *HEADS_FIRST), QUARTER, 100),
    Table("Blocks of other rows", ("blocks:8", "blocks:8, every 8th row"), QUARTER, 100),
    Table("Frequent jumps", _JUMPS, QUARTER, 20),
    Table("Frequent walks", (*_WALKS, "walk, every 2nd a jump", "walk, every 5th a jump"), QUARTER, 20),
    Table("Frequent jumps at a low rank", _NARROW, SIXTEENTH, 20),
)


def trial(contestant: str, point: search.Point) -> Run:
    """The trial some steps of a factor of 2 from the default rate."""
    rate = 2.0 ** point[0] * _rate(contestant)
    return Run(contestant=contestant, rank=QUARTER, update_proj_gap=100, learning_rate=rate, seed=SEED_OF_RATES)


def loss_at(contestant: str, outcomes: Mapping[Run, Outcome]) -> Callable[[search.Point], float | None]:
    """The loss of a trial, if it was made."""
    return lambda point: outcome.eval_loss if (outcome := outcomes.get(trial(contestant, point))) else None


def missing_trials(outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The trials to be made next."""
    trials = [trial(name, point) for name in RULES for point in search.trials(loss_at(name, outcomes), axes=1)]
    return [run for run in trials if run not in outcomes]


def runs_of(table: Table, rates: Mapping[str, float]) -> list[Run]:
    """The runs of a table: whole seeds first, so that one cut short is comparable."""
    return [
        Run(
            contestant=name,
            rank=table.rank,
            update_proj_gap=table.update_proj_gap,
            learning_rate=rates[name],
            seed=seed,
        )
        for seed in SEEDS
        for name in table.contestants
    ]


def best_rates(outcomes: Mapping[Run, Outcome]) -> dict[str, float]:
    """The learning rate of each contestant: the default until it is found."""
    found = {name: search.best(loss_at(name, outcomes), axes=1) for name in RULES}
    return {name: trial(name, point or (0,)).learning_rate for name, point in found.items()}


def report(outcomes: Mapping[Run, Outcome]) -> str:
    """The tables in which two contestants have runs."""
    rates = best_rates(outcomes)
    begun = [table for table in TABLES if len({run.contestant for run in runs_of(table, rates) if run in outcomes}) > 1]
    return "\n\n".join(table_text(table, outcomes) for table in begun)


def table_text(table: Table, outcomes: Mapping[Run, Outcome]) -> str:
    """A Markdown table: mean loss over seeds, its standard deviation, and the captured energy."""
    rates = best_rates(outcomes)
    lines = [
        f"**{table.title}**: r = {table.rank}, T = {table.update_proj_gap}. A random subspace captures "
        f"{(table.rank / HIDDEN) ** 0.5:.3f}.",
        "",
        "| basis | rate | seeds | loss | deviation | from the first, by seed | mean, its error | energy |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    first: dict[int, float] = {}
    for name in table.contestants:
        found = {run.seed: outcomes[run] for run in runs_of(table, rates) if run.contestant == name and run in outcomes}
        if not found:
            continue
        losses = {seed: outcome.eval_loss for seed, outcome in found.items()}
        first = first or losses
        differences = [losses[seed] - first[seed] for seed in losses if seed in first and losses is not first]
        cells = [
            name,
            f"{rates[name]:g}",
            str(len(losses)),
            f"{statistics.mean(losses.values()):.3f}",
            f"{statistics.stdev(losses.values()):.3f}" if len(losses) > 1 else "-",
            ", ".join(f"{difference:+.3f}" for difference in differences) or "-",
            _mean_and_error(differences),
            f"{statistics.mean(outcome.energy for outcome in found.values()):.3f}",
        ]
        lines.append(row(*cells))
    return "\n".join(lines)


def _mean_and_error(values: Sequence[float]) -> str:
    """The mean, and its standard error."""
    if len(values) < 2:
        return "-"
    return f"{statistics.mean(values):+.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"


STUDY = study_of(optimizer)


def main() -> None:
    """Make what is missing, and print the tables."""
    args = command_line(__doc__, RESULTS).parse_args()
    if not args.report:
        first, *others = TABLES
        STUDY.make(runs_of(first, best_rates(STUDY.read(args.results))), args.results, args.workers)
        while trials := missing_trials(STUDY.read(args.results)):
            STUDY.make(trials, args.results, args.workers)
        rates = best_rates(STUDY.read(args.results))
        runs = [run for table in (first, *others) for run in runs_of(table, rates)]
        STUDY.make(runs, args.results, args.workers)
    print(report(STUDY.read(args.results)))


if __name__ == "__main__":
    run_command(main)
