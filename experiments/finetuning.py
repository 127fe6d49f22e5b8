"""Do the subspace methods fine-tune an encoder as well as AdamW? The tables of SubTrack-Grad.

    python -m experiments.finetuning --size cpu

Writes a line for each run to docs/results/finetuning.jsonl, and prints the tables of
docs/results/finetuning.md. Finished runs are skipped. The tables of the paper need an accelerator:
`--size full`. Those of `--size cpu` are a few epochs of few, short texts.

The learning rate of a contestant is one of which neither a quarter nor four times is better, by
trials on a seed of their own, trained and scored on parts of the texts to train on. Until all are
made, it is the trainer's default.
"""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from experiments import search
from experiments.labelling import STUDY, Outcome, Run
from experiments.provenance import made_on
from experiments.study import caption, command_line, row, run_command, spread, write_tables
from train.config.finetune import RANK, finetuning_optimizer
from train.config.optimizers import OPTIMIZERS

RESULTS = Path("docs/results/finetuning.jsonl")
SEEDS, SEED_OF_TRIALS = (0, 1, 2), 100


class Contestant(NamedTuple):
    """An optimizer at a rank."""

    optimizer: str
    rank: int | None


CONTESTANTS = (
    Contestant("adamw", None),
    Contestant("badam", None),
    *(Contestant(name, r) for r in (4, 8) for name in ("galore", "subtrack_grad", "grasswalk", "grassjump", "lora")),
    Contestant("apollo_mini", None),
)
TRIED = tuple(contestant for contestant in CONTESTANTS if contestant.rank in (None, RANK))


class Table(NamedTuple):
    """A task, its metrics, of which the first chooses the rates, and how it is trained."""

    title: str
    texts: str
    metrics: tuple[str, ...]
    epochs: float
    update_proj_gap: int
    switch_gap: int  # of badam
    seq_len: int
    batch_size: int = 16


# Metrics as in the papers: Pearson for numbers, else accuracy. `full` has their 30 epochs, ranks,
# scales and, except for the small set, intervals; `cpu` has five subspaces a run, as have the
# papers' comparisons of time, and BAdam takes its six layers twice.
TABLES: dict[str, tuple[Table, ...]] = {
    "cpu": (
        Table("Toxicity", "toxicity", ("pearson", "eval_loss"), 1, 10, 4, 32),
        Table("Reuters R8, 640 texts", "r8, 640 texts", ("accuracy", "f1"), 2, 16, 6, 64),
        Table("BoolQ, 640 texts", "boolq, 640 texts", ("accuracy", "eval_loss"), 2, 16, 6, 128),
    ),
    "full": (
        Table("Toxicity, 30 epochs", "toxicity", ("pearson", "eval_loss"), 30, 75, 50, 64),
        Table("Reuters R8", "r8", ("accuracy", "f1"), 30, 500, 100, 256),
        Table("BoolQ", "boolq", ("accuracy", "f1"), 30, 500, 100, 256),
    ),
}
NAMES = {"pearson": "Pearson", "eval_loss": "loss", "accuracy": "accuracy", "f1": "F1"}


def default_rate(optimizer: str) -> float:
    """The trainer's default rate for fine-tuning."""
    return finetuning_optimizer(optimizer).learning_rate


def run_of(table: Table, contestant: Contestant, learning_rate: float, seed: int, is_trial: bool = False) -> Run:
    """A run of a table."""
    name, rank = contestant
    flags = finetuning_optimizer(name)
    gap = table.switch_gap if name == "badam" else table.update_proj_gap
    return Run(
        texts=table.texts,
        is_trial=is_trial,
        optimizer=name,
        rank=rank,
        scale=flags.scale if rank is None else flags.scale * RANK / rank,
        update_proj_gap=None if OPTIMIZERS[name].update_proj_gap is None else gap,
        learning_rate=learning_rate,
        seed=seed,
        epochs=table.epochs,
        batch_size=table.batch_size,
        seq_len=table.seq_len,
    )


def trial(table: Table, contestant: Contestant, factor: float) -> Run:
    """The trial of a factor of the default rate."""
    return run_of(table, contestant, factor * default_rate(contestant.optimizer), SEED_OF_TRIALS, is_trial=True)


def factor_at(point: search.Point) -> float:
    """A factor of the default rate, which is that of a large model: the search starts at four."""
    return 4.0 ** (1 + point[0])


def worth_at(
    table: Table, contestant: Contestant, outcomes: Mapping[Run, Outcome]
) -> Callable[[search.Point], tuple[float, float] | None]:
    """What the search minimizes: the first metric with a minus and, of equal ones, the loss."""

    def worth(point: search.Point) -> tuple[float, float] | None:
        outcome = outcomes.get(trial(table, contestant, factor_at(point)))
        return outcome and (-outcome.metrics[table.metrics[0]], outcome.metrics["eval_loss"])

    return worth


def factors_of(table: Table, contestant: Contestant, outcomes: Mapping[Run, Outcome]) -> list[float]:
    """The factors to be tried, as far as is known."""
    return sorted(map(factor_at, search.trials(worth_at(table, contestant, outcomes), axes=1)))


def missing_trials(table: Table, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The trials to be made next."""
    trials = [trial(table, one, factor) for one in TRIED for factor in factors_of(table, one, outcomes)]
    return [run for run in trials if run not in outcomes]


def runs_of(table: Table, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The runs of a table: whole seeds first, so that one cut short is comparable."""
    rates = best_rates(table, outcomes)
    return [
        run_of(table, contestant, rates[contestant.optimizer], seed) for seed in SEEDS for contestant in CONTESTANTS
    ]


def best_rates(table: Table, outcomes: Mapping[Run, Outcome]) -> dict[str, float]:
    """The learning rate of each optimizer, chosen at one rank: the default until it is found."""
    found = {one.optimizer: search.best(worth_at(table, one, outcomes), axes=1) for one in TRIED}
    return {name: (factor_at(point) if point else 1.0) * default_rate(name) for name, point in found.items()}


def report(outcomes: Mapping[Run, Outcome]) -> str:
    """The tables that have runs."""
    tables = [table for of_size in TABLES.values() for table in of_size]
    return "\n\n".join(
        text for table in tables for text in (tests_text(table, outcomes), trials_text(table, outcomes)) if text
    )


def tests_text(table: Table, outcomes: Mapping[Run, Outcome]) -> str:
    """A Markdown table: means over seeds, standard deviations, time and state."""
    done = [run for run in runs_of(table, outcomes) if run in outcomes]
    if not done:
        return ""
    names = [NAMES[metric] for metric in table.metrics]
    first = {run.seed: outcomes[run].metrics[table.metrics[0]] for run in done if run.optimizer == "adamw"}
    lines = [
        caption(f"**{table.title}**: {described(table)}; {made_on((outcomes[run] for run in done), 'texts')}."),
        "",
        row("optimizer", "r", "rate", "seeds", *names, f"{names[0]} from adamw, by seed", "seconds", "of CPU", "MB"),
        "|---|---:|---:|---:|" + "---:|" * len(names) + "---|---:|---:|---:|",
        row("the same guess", "-", "-", "-", *(f"{outcomes[done[0]].guess[m]:.3f}" for m in table.metrics), *"----"),
    ]
    for name, rank in CONTESTANTS:
        found = {run.seed: outcomes[run] for run in done if (run.optimizer, run.rank) == (name, rank)}
        if not found:
            continue
        values = {seed: outcome.metrics[table.metrics[0]] for seed, outcome in found.items()}
        differences = [f"{value - first[seed]:+.3f}" for seed, value in values.items() if seed in first]
        rate = best_rates(table, outcomes)[name]
        means = [spread([outcome.metrics[metric] for outcome in found.values()]) for metric in table.metrics]
        lines.append(
            row(
                name,
                str(rank or "-"),
                f"{rate:g}",
                str(len(found)),
                *means,
                "-" if name == "adamw" else ", ".join(differences),
                f"{statistics.median(outcome.seconds for outcome in found.values()):.0f}",
                f"{statistics.median(outcome.cpu_seconds for outcome in found.values()):.0f}",
                f"{next(iter(found.values())).optimizer_bytes / 1e6:.1f}",
            )
        )
    return "\n".join(lines)


def trials_text(table: Table, outcomes: Mapping[Run, Outcome]) -> str:
    """A Markdown table of the first metric at each rate that was tried."""
    lines, metric = [], table.metrics[0]
    factors = sorted({factor for one in TRIED for factor in factors_of(table, one, outcomes)})
    made = list[Run]()
    for one in TRIED:
        runs = [trial(table, one, factor) for factor in factors]
        made += [run for run in runs if run in outcomes]
        values = [f"{outcomes[run].metrics[metric]:.3f}" if run in outcomes else "-" for run in runs]
        if set(values) != {"-"}:
            lines.append(row(one.optimizer, f"{default_rate(one.optimizer):g}", *values))
    if not lines:
        return ""
    what = f"{NAMES[metric]} on a part of the texts to train on, by learning rate"
    head = [
        caption(f"**{table.title}, trials**: {what}; {made_on((outcomes[run] for run in made), 'texts')}."),
        "",
        row("optimizer", "default", *(f"{factor:g} times" for factor in factors)),
        "|---|" + "---:|" * (1 + len(factors)),
    ]
    return "\n".join(head + lines)


def described(table: Table) -> str:
    """How the runs of a table are trained."""
    epochs = "1 epoch" if table.epochs == 1 else f"{table.epochs:g} epochs"
    return (
        f"{epochs} in batches of {table.batch_size} rows of up to {table.seq_len} tokens, T = {table.update_proj_gap}, "
        f"{table.switch_gap} for badam"
    )


def main() -> None:
    """Make what is missing, table by table, print the tables and write them into the page."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--size", choices=tuple(TABLES), default="cpu", help="the tables to make")
    args = parser.parse_args()
    for table in () if args.report else TABLES[args.size]:
        while trials := missing_trials(table, STUDY.read(args.results)):
            STUDY.make(trials, args.results, args.workers)
        STUDY.make(runs_of(table, STUDY.read(args.results)), args.results, args.workers)
    tables = report(STUDY.read(args.results))
    print(tables)
    write_tables(args.results.with_suffix(".md"), tables)


if __name__ == "__main__":
    run_command(main)
