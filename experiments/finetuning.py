"""Do the subspace methods fine-tune an encoder as well as AdamW? The tables of SubTrack-Grad.

    python -m experiments.finetuning --size cpu

Writes a line for each run to docs/results/finetuning.jsonl, and prints the tables of
docs/results/finetuning.md. Finished runs are skipped. The tables of the paper need an accelerator:
`--size full`. Those of `--size cpu` are a few epochs of few, short texts.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.figures import Panel, panels_figure
from experiments.finetuning_runs import (
    CONTESTANTS,
    NAMES,
    TABLES,
    TRIED,
    Contestant,
    Table,
    best_rates,
    default_rate,
    factors_of,
    missing_trials,
    runs_of,
    trial,
)
from experiments.labelling import STUDY, Outcome, Run
from experiments.provenance import made_on
from experiments.study import caption, command_line, row, run_command, spread, write_tables
from train.storage.metrics import save_figure

RESULTS = Path("docs/results/finetuning.jsonl")


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
    lines, metric, made = list[str](), table.metrics[0], list[Outcome]()
    factors = sorted({factor for one in TRIED for factor in factors_of(table, one, outcomes)})
    for one in TRIED:
        runs = [trial(table, one, factor) for factor in factors]
        made += [outcomes[run] for run in runs if run in outcomes]
        values = [f"{outcomes[run].metrics[metric]:.3f}" if run in outcomes else "-" for run in runs]
        if set(values) != {"-"}:
            lines.append(row(one.optimizer, f"{default_rate(one.optimizer):g}", *values))
    if not lines:
        return ""
    what = f"{NAMES[metric]} on a part of the texts to train on, by learning rate"
    head = [
        caption(f"**{table.title}, trials**: {what}; {made_on(made, 'texts')}."),
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


def figure(outcomes: Mapping[Run, Outcome]) -> Figure | None:
    """The first metric of each table that has runs, by contestant; None if there is none."""
    panels = []
    for table in (table for of_size in TABLES.values() for table in of_size):
        metric, scores = table.metrics[0], dict[str, list[float]]()
        for run in runs_of(table, outcomes):
            if run in outcomes:
                scores.setdefault(Contestant(run.optimizer, run.rank).name, []).append(outcomes[run].metrics[metric])
        if scores:
            panels.append(Panel(table.title, f"{NAMES[metric]} of the texts to test on (no unit)", scores))
    return panels_figure(panels) if panels else None


def write_page(results: Path, outcomes: Mapping[Run, Outcome]) -> None:
    """Write the tables into the page, if there is one, and the figure beside it."""
    write_tables(results.with_suffix(".md"), report(outcomes))
    if drawn := figure(outcomes):
        save_figure(drawn, results.with_suffix(".png"))


def main() -> None:
    """Make what is missing, table by table, print the tables and write them into the page."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--size", choices=tuple(TABLES), default="cpu", help="the tables to make")
    args = parser.parse_args()
    for table in () if args.report else TABLES[args.size]:
        while trials := missing_trials(table, STUDY.read(args.results)):
            STUDY.make(trials, args.results, args.workers)
        STUDY.make(runs_of(table, STUDY.read(args.results)), args.results, args.workers)
    print(report(STUDY.read(args.results)))
    write_page(args.results, STUDY.read(args.results))


if __name__ == "__main__":
    run_command(main)
