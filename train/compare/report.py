"""The results of a comparison: a table in Markdown, the same in JSON, and the curves of the best
run of each optimizer.
"""

import dataclasses
import json
import math

import matplotlib
from matplotlib.figure import Figure

from train.compare.config import Compare, cells, scales, short
from train.compare.record import COMPARISON, CURVES, TABLE, Record, Result, results
from train.storage.folder import RunFolder
from train.storage.metrics import read_rows, save_figure
from train.system.files import write_whole

HEAD = ("optimizer", "lr", "scale", "eval loss", "bits per byte", "tokens/s", "optimizer bytes", "peak memory bytes")


def write_report(config: Compare, record: Record) -> str:
    """Write compare.json, compare.md and compare.png from the finished runs; return the table."""
    finished = results(config)
    best, notes = best_of_each(finished), edges(config, finished)
    text = markdown(config, finished, best, notes)
    content = {
        **dataclasses.asdict(record),
        "best": [result._asdict() for result in best],
        "notes": notes,
        "runs": [result._asdict() for result in finished],
    }
    write_whole(config.run_dir / COMPARISON, json.dumps(content, indent=1) + "\n")
    write_whole(config.run_dir / TABLE, text)
    save_figure(curves(config, [result for result in best if not result.diverged]), config.run_dir / CURVES)
    return text


def by_loss(result: Result) -> float:
    """Sort key: the held-out loss; diverged runs come last."""
    return math.inf if result.eval_loss is None else result.eval_loss


def best_of_each(finished: list[Result]) -> list[Result]:
    """Return the best run of each contestant, the best first."""
    best: dict[str, Result] = {}
    for result in sorted(finished, key=by_loss):
        best.setdefault(result.name, result)
    return list(best.values())


def edges(config: Compare, finished: list[Result]) -> list[str]:
    """Note each optimizer whose best run is at an edge of a sweep, once its sweep is complete."""
    notes = []
    for best in best_of_each(finished):
        name = best.name
        if best.diverged or sum(result.name == name for result in finished) < runs_of(config, name):
            continue
        for flag, value, swept in (
            ("--sweep-lr", best.learning_rate, config.compare.sweep_lr or ()),
            ("--sweep-scale", best.scale, scales(config, best.optimizer)),
        ):
            if len(swept) > 1 and value in (min(swept), max(swept)):
                end = "lower" if value == min(swept) else "upper"
                notes.append(f"{name}: {short(value)} is the {end} edge of {flag}; the optimum may be beyond it.")
    return notes


def runs_of(config: Compare, name: str) -> int:
    """Return the number of runs of a contestant."""
    return sum(cell.name == name for cell in cells(config))


def markdown(config: Compare, finished: list[Result], best: list[Result], notes: list[str]) -> str:
    """Return the content of compare.md."""
    parts = [summary_line(config, finished), table(best), *(f"* {note}" for note in notes)]
    if len(cells(config)) > len({cell.name for cell in cells(config)}):
        parts += ["## All runs", table(sorted(finished, key=by_loss))]
    return "\n\n".join(["# Comparison", *parts]) + "\n"


def summary_line(config: Compare, finished: list[Result]) -> str:
    """Describe what was compared, and how the runs shown were chosen."""
    swept = [
        f"{what} {', '.join(map(short, values))}"
        for what, values in (("learning rates", config.compare.sweep_lr), ("scales", config.compare.sweep_scale))
        if values
    ]
    shown = f"the best of {' and '.join(swept)}, by the loss shown" if swept else "the defaults of each optimizer"
    count = len(cells(config))
    missing = count - len(finished)
    return (
        f"{config.model.model}, {config.schedule.steps} steps of {config.data.batch_size} x {config.data.seq_len} "
        f"tokens of {config.data.data}, seed {config.data.seed}, rank {config.compare.rank}, on "
        f"{', '.join(sorted({str(result.device) for result in finished if result.device})) or 'no device yet'}; "
        f"{shown}." + (f" **{missing} of {count} runs are missing.**" if missing else "")
    )


def table(shown: list[Result]) -> str:
    """Return the table of some runs."""
    lines = [HEAD, ("---", *("---:" for _ in HEAD[1:])), *map(row, shown)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(result: Result) -> tuple[str, ...]:
    """Return the cells of the table for a run."""
    loss = "diverged" if result.diverged else formatted(result.eval_loss, ".4f")
    return (
        result.name,
        short(result.learning_rate),
        short(result.scale),
        loss,
        formatted(result.bits_per_byte, ".4f"),
        formatted(result.tokens_per_second, ",.0f"),
        formatted(result.optimizer_bytes, ","),
        formatted(result.peak_memory_bytes, ","),
    )


def formatted(number: float | None, spec: str) -> str:
    """Format a number that may be missing."""
    return "-" if number is None else format(number, spec)


def curves(config: Compare, shown: list[Result]) -> Figure:
    """Plot the held-out loss of each run over the steps."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="held-out loss (nats per token)")
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)  # type: ignore[attr-defined]  # it is a list
    for result in shown:
        rows = read_rows(RunFolder(config.run_dir / result.folder).metrics)
        evaluations = [row for row in rows if "eval_loss" in row]
        label = f"{result.name}, lr {short(result.learning_rate)}, scale {short(result.scale)}"
        axes.plot([row["step"] for row in evaluations], [row["eval_loss"] for row in evaluations], label=label)
    if shown:
        figure.legend(loc="outside right upper", fontsize="small")
    return figure
