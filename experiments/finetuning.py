"""Do the subspace methods fine-tune an encoder as well as AdamW? The tables of SubTrack-Grad.

    python -m experiments.finetuning --size cpu

Writes a line for each run to docs/results/finetuning.jsonl, and prints the tables of
docs/results/finetuning.md. Finished runs are skipped. The tables of the paper need an accelerator:
`--size full`. Those of `--size cpu` are a few epochs of few, short texts.

The learning rate of a contestant is the best of its trials: of some factors of the trainer's
default, on a seed of their own, trained and scored on parts of the texts to train on. Until all
trials are made, it is the trainer's default.
"""

import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from experiments.labelling import STUDY, Outcome, Run
from experiments.study import command_line, row
from train.config.finetune import RANK, finetuning_optimizer
from train.config.optimizers import OPTIMIZERS

RESULTS = Path("docs/results/finetuning.jsonl")
SEEDS, SEED_OF_TRIALS = (0, 1, 2), 100
# Of the trainer's default rate for fine-tuning. The first three are tried, and the next one while
# the largest is the best.
FACTORS = (1.0, 4.0, 16.0, 64.0, 256.0)
AT_LEAST = 3


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
# scales and, but for the small set, intervals; `cpu` has five subspaces a run, as have the papers'
# comparisons of time, and BAdam takes its six layers twice.
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


def trials_of(table: Table, contestant: Contestant, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The runs that choose the learning rate of a contestant, as far as is known by now."""
    runs = [
        run_of(table, contestant, factor * default_rate(contestant.optimizer), SEED_OF_TRIALS, is_trial=True)
        for factor in FACTORS
    ]
    count = AT_LEAST
    while count < len(runs) and best_of(table, runs[:count], outcomes) == runs[count - 1]:
        count += 1
    return runs[:count]


def best_of(table: Table, trials: Sequence[Run], outcomes: Mapping[Run, Outcome]) -> Run | None:
    """The best trial by the first metric of the table, and of equal ones by the loss; None if some
    were not made.
    """

    def worth(run: Run) -> tuple[float, float]:
        metrics = outcomes[run].metrics
        return metrics[table.metrics[0]], -metrics["eval_loss"]

    return max(trials, key=worth) if all(run in outcomes for run in trials) else None


def missing_trials(table: Table, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The trials to be made next, from the least factor to the largest."""
    trials = [trials_of(table, contestant, outcomes) for contestant in TRIED]
    return [run for runs in zip_longest(*trials) for run in runs if run and run not in outcomes]


def runs_of(table: Table, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The runs of a table: whole seeds first, so that one cut short is comparable."""
    rates = best_rates(table, outcomes)
    return [
        run_of(table, contestant, rates[contestant.optimizer], seed) for seed in SEEDS for contestant in CONTESTANTS
    ]


def best_rates(table: Table, outcomes: Mapping[Run, Outcome]) -> dict[str, float]:
    """The learning rate of each optimizer, chosen at one rank: the best if all were tried."""
    best = {
        contestant.optimizer: best_of(table, trials_of(table, contestant, outcomes), outcomes) for contestant in TRIED
    }
    return {name: run.learning_rate if run else default_rate(name) for name, run in best.items()}


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
        f"**{table.title}**: {described(table)}.",
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
    for contestant in TRIED:
        values = [
            f"{outcomes[run].metrics[metric]:.3f}" if run in outcomes else "-"
            for run in trials_of(table, contestant, outcomes)
        ]
        if set(values) != {"-"}:
            values += ["-"] * (len(FACTORS) - len(values))
            lines.append(row(contestant.optimizer, f"{default_rate(contestant.optimizer):g}", *values))
    if not lines:
        return ""
    head = [
        f"**{table.title}, trials**: {NAMES[metric]} on a part of the texts to train on, by learning rate.",
        "",
        row("optimizer", "default", *(f"{factor:g} times" for factor in FACTORS)),
        "|---|" + "---:|" * (1 + len(FACTORS)),
    ]
    return "\n".join(head + lines)


def described(table: Table) -> str:
    """How the runs of a table are trained."""
    epochs = "1 epoch" if table.epochs == 1 else f"{table.epochs:g} epochs"
    return (
        f"{epochs} in batches of {table.batch_size} rows of up to {table.seq_len} tokens, T = {table.update_proj_gap}, "
        f"{table.switch_gap} for badam"
    )


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation if there are several."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def main() -> None:
    """Make what is missing, table by table, and print the tables."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--size", choices=tuple(TABLES), default="cpu", help="the tables to make")
    args = parser.parse_args()
    for table in () if args.report else TABLES[args.size]:
        while trials := missing_trials(table, STUDY.read(args.results)):
            STUDY.make(trials, args.results, args.workers)
        STUDY.make(runs_of(table, STUDY.read(args.results)), args.results, args.workers)
    print(report(STUDY.read(args.results)))


if __name__ == "__main__":
    main()
