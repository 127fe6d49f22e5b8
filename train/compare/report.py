"""The results of a comparison: a table in Markdown, the same in JSON, and the curves of the best
run of each optimizer.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from train.compare.choice import (
    LOSS,
    Entry,
    Results,
    best_first,
    best_of_each,
    count_runs,
    differences,
    repetitions,
    results,
    shown,
    single,
    trials,
)
from train.compare.config import Comparison
from train.compare.figures import Curve, Trial, comparison_figure
from train.compare.grid import cells, is_swept, reported_seeds, scales, seeds, short, swept, tuning_seeds
from train.compare.record import COMPARISON, CURVES, TABLE, Record, Result, plain
from train.storage.folder import RunFolder
from train.storage.metrics import evaluations_of, read_rows, save_figure
from train.storage.quantities import loss_unit
from train.system.files import as_json, write_whole

SPREAD = "±: the standard deviation over the seeds."
SPEEDS = "tokens/s: the median over the updates of a run, and their lower and upper quartile in brackets."


def write_report(config: Comparison, record: Record) -> str:
    """Write compare.json, compare.md and, if a run has finished, compare.png; return the table."""
    done = results(config)
    entries, notes = shown(config, done), edges(config, done)
    text = markdown(config, done, notes)
    content = {
        **dataclasses.asdict(record),
        "best": [entry.runs[0].as_json() for entry in best_of_each(config, done)],
        "notes": notes,
        "runs": [result.as_json() for result in done.values()],
    }
    if _has_seeds(config):
        content["seeds"] = {entry.name: over_seeds(config, entry, entries) for entry in entries}
    write_whole(config.run_dir / COMPARISON, as_json(content))
    write_whole(config.run_dir / TABLE, text)
    if curves := [curve_of(config, entry.finished[0]) for entry in entries if entry.finished]:
        first = cells(config)[0]
        unit = loss_unit(config.run(config.run_dir, config.optimizer(first.optimizer), first.seed))
        save_figure(comparison_figure(curves, points(config, done), f"held-out loss ({unit})"), config.run_dir / CURVES)
    return text


def over_seeds(config: Comparison, entry: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return mean and deviation of the metrics of an entry, and its differences to the first
    contestant.
    """
    return {
        "seeds": [run.cell.seed for run in entry.runs],
        "mean": {name: entry.mean(name) for name in config.metrics},
        "deviation": {name: entry.deviation(name) for name in config.metrics},
        "differences": differences(config, entry, first_of(config, entries)),
    }


def first_of(config: Comparison, entries: Sequence[Entry]) -> Entry:
    """Return the entry of the first contestant of the command line; an empty one if it has none."""
    name = cells(config)[0].name
    return next((entry for entry in entries if entry.name == name), Entry(name, ()))


def edges(config: Comparison, done: Results) -> list[str]:
    """Note each optimizer whose best run is at an edge of a sweep, once its sweep is complete."""
    notes = []
    for best in best_of_each(config, done):
        cell = best.cell
        if best.diverged or any(other.name == cell.name and other not in done for other in cells(config)):
            continue
        for name, value, values in (
            ("learning_rate", cell.learning_rate, swept(config, "learning_rate")),
            ("scale", cell.scale, scales(config, cell.optimizer)),
        ):
            if len(values) > 1 and value in (min(values), max(values)):
                end = "lower" if value == min(values) else "upper"
                edge = f"{cell.name}: {short(value)} is the {end} edge of --sweep {name}"
                notes.append(f"{edge}; the optimum may be beyond it.")
    return notes


def markdown(config: Comparison, done: Results, notes: list[str]) -> str:
    """Return the content of compare.md."""
    entries = shown(config, done)
    parts = [summary_line(config, done), table(config, entries), SPEEDS]
    parts += [SPREAD] * (len(reported_seeds(config)) > 1) + [f"* {note}" for note in notes]
    if len(reported_seeds(config)) > 1:
        parts += [f"## {plain(config.metric).capitalize()} less that of {cells(config)[0].name}, by seed"]
        parts += [table_of_differences(config, entries)]
    if is_swept(config) or _has_seeds(config):
        parts += ["## All runs", table(config, best_first(single(done.values()), config.metric))]
    return "\n\n".join(["# Comparison", *parts]) + "\n"


def summary_line(config: Comparison, done: Results) -> str:
    """Describe what was compared, and how the runs shown were chosen."""
    count = count_runs(config, done)
    missing = count - sum(cell in done for cell in [*cells(config), *repetitions(config, done)])
    devices = ", ".join(sorted({str(result.device) for result in done.values() if result.device})) or "no device yet"
    return (
        f"{config.title} of {config.data.batch_size} x {config.data.seq_len} tokens of {config.data.data}, "
        f"seed {' '.join(map(str, reported_seeds(config)))}, rank {config.compare.rank}, on {devices}; "
        f"{how_chosen(config)}." + (f" **{missing} of {count} runs are missing.**" if missing else "")
    )


def how_chosen(config: Comparison) -> str:
    """Say how the settings shown were chosen, and by what."""
    chosen = [
        f"{what} {', '.join(map(short, values))}"
        for what, values in (("learning rates", swept(config, "learning_rate")), ("scales", swept(config, "scale")))
        if values
    ]
    if not chosen:
        return "the defaults of each optimizer"
    if not is_swept(config):
        return f"at {' and '.join(chosen)}"
    by, tried = plain(config.metric), tuning_seeds(config)
    whose = f"{by} shown, so on"
    if set(reported_seeds(config)).isdisjoint(tried):
        whose = f"{by} of {'seed' if len(tried) == 1 else 'seeds'} {' '.join(map(str, tried))}, on"
    return f"the best of {' and '.join(chosen)}, chosen by the {whose} the same held-out text"


def table(config: Comparison, entries: Sequence[Entry]) -> str:
    """Return the table of some entries."""
    seed = ("seed",) if _has_seeds(config) else ()
    costs = ("minutes", "tokens/s", "optimizer bytes", "peak memory bytes")
    head = ("optimizer", "lr", "scale", *seed, *map(plain, config.metrics), *costs)
    return as_table([head, *(row(config, entry) for entry in entries)])


def as_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first line is its head, and all columns but the first have
    numbers.
    """
    rule = ("---", *("---:" for _ in lines[0][1:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def row(config: Comparison, entry: Entry) -> tuple[str, ...]:
    """Return the cells of the table for an entry."""
    cell, (first, *others) = entry.runs[0].cell, config.metrics
    diverged = len(entry.runs) - len(entry.finished)
    failure = "diverged" if diverged == len(entry.runs) else f"{diverged} of {len(entry.runs)} diverged"
    return (
        entry.name,
        short(cell.learning_rate),
        short(cell.scale),
        *([" ".join(str(run.cell.seed) for run in entry.runs)] if _has_seeds(config) else []),
        failure if diverged else score(entry, first),
        *(score(entry, name) for name in others),
        formatted(median(entry, "seconds"), ".1f", 1 / 60),
        speed(entry),
        formatted(median(entry, "optimizer_bytes"), ",.0f"),
        formatted(median(entry, "peak_memory_bytes"), ",.0f"),
    )


def score(entry: Entry, metric: str) -> str:
    """Return the mean of a metric, with its standard deviation if there are several seeds."""
    mean, deviation = entry.mean(metric), entry.deviation(metric)
    return formatted(mean, ".4f") + ("" if deviation is None else f" ± {deviation:.4f}")


def speed(entry: Entry) -> str:
    """Return the median speed and the quartiles; of several runs the median of each."""
    quartiles = [run.tokens_per_second for run in entry.finished if run.tokens_per_second is not None]
    if not quartiles:
        return "-"
    low, middle, high = (statistics.median(values) for values in zip(*quartiles, strict=True))
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"


def median(entry: Entry, name: str) -> float | None:
    """Return the median of a cost over the finished runs, if it is known."""
    values = [value for run in entry.finished if (value := getattr(run, name)) is not None]
    return statistics.median(values) if values else None


def table_of_differences(config: Comparison, entries: Sequence[Entry]) -> str:
    """Return the table of differences to the first contestant, by seed."""
    columns, lines = reported_seeds(config), []
    for entry in entries:
        by_seed = differences(config, entry, first_of(config, entries))
        values = list(by_seed.values())
        mean = formatted(statistics.mean(values) if values else None, "+.4f")
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        lines.append((entry.name, *(formatted(by_seed.get(seed), "+.4f") for seed in columns), mean + spread))
    return as_table([("optimizer", *(f"seed {seed}" for seed in columns), "mean"), *lines])


def formatted(number: float | None, spec: str, unit: float = 1) -> str:
    """Format a number that may be missing, times a unit."""
    return "-" if number is None else format(unit * number, spec)


def _has_seeds(config: Comparison) -> bool:
    return len({*seeds(config), *tuning_seeds(config)}) > 1


def curve_of(config: Comparison, result: Result) -> Curve:
    """Return the held-out losses of a finished run."""
    cell, evaluations = result.cell, evaluations_of(read_rows(RunFolder(config.run_dir / result.cell.folder).metrics))
    settings = f"lr {short(cell.learning_rate)}, scale {short(cell.scale)}"
    return Curve(cell.name, settings, [row["step"] for row in evaluations], [row["eval_loss"] for row in evaluations])


def points(config: Comparison, done: Results) -> list[Trial]:
    """Return the cells of the sweep that have results, each with its mean loss over the seeds."""
    return [Trial(entry.name, entry.cell.learning_rate, entry.mean(LOSS)) for entry in trials(config, done)]
