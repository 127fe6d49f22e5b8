"""The results of a comparison: a table in Markdown, the same in JSON, and the curves of the best
run of each optimizer.
"""

import dataclasses
import json
import math

from train.compare.config import Compare, cells, scales, short
from train.compare.figures import Curve, Trial, comparison_figure
from train.compare.record import COMPARISON, CURVES, TABLE, Record, Result, results
from train.storage.folder import RunFolder
from train.storage.metrics import evaluations_of, read_rows, save_figure
from train.system.files import write_whole

HEAD = ("optimizer", "lr", "scale", "eval loss", "bits per byte", "tokens/s", "optimizer bytes", "peak memory bytes")
SPEEDS = "tokens/s: the median over the updates of a run, and their lower and upper quartile in brackets."


def write_report(config: Compare, record: Record) -> str:
    """Write compare.json, compare.md and, if a run has finished, compare.png; return the table."""
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
    if curves := [curve_of(config, result) for result in best if not result.diverged]:
        trials = [Trial(result.name, result.learning_rate, result.eval_loss) for result in finished]
        figure = comparison_figure(curves, trials, "held-out loss (nats per token)")
        save_figure(figure, config.run_dir / CURVES)
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
            ("--sweep-scale", best.scale, scales(best.optimizer, config.compare.sweep_scale)),
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
    parts = [summary_line(config, finished), table(best), SPEEDS, *(f"* {note}" for note in notes)]
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
        speed(result),
        formatted(result.optimizer_bytes, ","),
        formatted(result.peak_memory_bytes, ","),
    )


def speed(result: Result) -> str:
    """Return the median speed of a run, and the quartiles in brackets."""
    if result.tokens_per_second is None or result.tokens_per_second_quartiles is None:
        return "-"
    low, high = result.tokens_per_second_quartiles
    return f"{result.tokens_per_second:,.0f} ({low:,.0f} to {high:,.0f})"


def formatted(number: float | None, spec: str) -> str:
    """Format a number that may be missing."""
    return "-" if number is None else format(number, spec)


def curve_of(config: Compare, result: Result) -> Curve:
    """Return the held-out losses of a finished run."""
    evaluations = evaluations_of(read_rows(RunFolder(config.run_dir / result.folder).metrics))
    settings = f"lr {short(result.learning_rate)}, scale {short(result.scale)}"
    return Curve(result.name, settings, [row["step"] for row in evaluations], [row["eval_loss"] for row in evaluations])
