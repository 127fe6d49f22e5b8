"""What a comparison shows: a table in Markdown, the same in JSON, and the curves of the best run of
each optimizer.
"""

import json
import math

import matplotlib
from matplotlib.figure import Figure

from train.compare.config import Compare, cells, scales, short
from train.compare.record import COMPARISON, CURVES, TABLE, Record, Result, results
from train.config.optimizers import OptimizerName
from train.pretrain.folder import METRICS
from train.pretrain.metrics import read_rows, save_figure
from train.system.files import write_whole

HEAD = ("optimizer", "lr", "scale", "eval loss", "bits per byte", "tokens/s", "optimizer bytes", "peak memory bytes")


def write_report(config: Compare, record: Record) -> str:
    """Write compare.json, compare.md and compare.png from the runs that have an outcome; return the
    table's text.
    """
    found = results(config)
    best, notes = best_of_each(found), edges(config, found)
    text = report(config, found, best, notes)
    content = {
        **record._asdict(),
        "best": [result._asdict() for result in best],
        "notes": notes,
        "runs": [result._asdict() for result in found],
    }
    write_whole(config.run_dir / COMPARISON, json.dumps(content, indent=1) + "\n")
    write_whole(config.run_dir / TABLE, text)
    save_figure(curves(config, [result for result in best if not result.diverged]), config.run_dir / CURVES)
    return text


def by_loss(result: Result) -> float:
    """Order results by held-out loss: what has none comes last."""
    return math.inf if result.eval_loss is None else result.eval_loss


def best_of_each(found: list[Result]) -> list[Result]:
    """Return the best run of each optimizer, the best optimizer first."""
    best: dict[str, Result] = {}
    for result in sorted(found, key=by_loss):
        best.setdefault(result.optimizer, result)
    return list(best.values())


def edges(config: Compare, found: list[Result]) -> list[str]:
    """Say of which optimizers the best run is at an edge of the sweep; of those only that have been
    swept whole.
    """
    notes = []
    for best in best_of_each(found):
        name = OptimizerName(best.optimizer)
        if best.diverged or sum(result.optimizer == name for result in found) < runs_of(config, name):
            continue
        for flag, value, swept in (
            ("--sweep-lr", best.learning_rate, config.compare.sweep_lr or ()),
            ("--sweep-scale", best.scale, scales(name, config.compare.sweep_scale)),
        ):
            if len(swept) > 1 and value in (min(swept), max(swept)):
                end = "lower" if value == min(swept) else "upper"
                notes.append(f"{name}: {short(value)} is the {end} edge of {flag}, so its best may lie beyond.")
    return notes


def runs_of(config: Compare, name: OptimizerName) -> int:
    """Return how many runs an optimizer has."""
    return sum(cell.optimizer == name for cell in cells(config))


def report(config: Compare, found: list[Result], best: list[Result], notes: list[str]) -> str:
    """Return the content of compare.md."""
    parts = [summary_line(config, found), table(best), *(f"* {note}" for note in notes)]
    if len(cells(config)) > len(config.compare.optimizers):
        parts += ["## All runs", table(sorted(found, key=by_loss))]
    return "\n\n".join(["# Comparison", *parts]) + "\n"


def summary_line(config: Compare, found: list[Result]) -> str:
    """Return the sentence on what was compared, and how the runs shown were chosen."""
    swept = [
        f"{what} {', '.join(map(short, values))}"
        for what, values in (("learning rates", config.compare.sweep_lr), ("scales", config.compare.sweep_scale))
        if values
    ]
    chosen = f"the best of {' and '.join(swept)}, by the loss shown" if swept else "the defaults of each optimizer"
    to_come = len(cells(config)) - len(found)
    return (
        f"{config.model.model}, {config.schedule.steps} steps of {config.data.batch_size} x {config.data.seq_len} "
        f"tokens of {config.data.data}, seed {config.data.seed}, rank {config.compare.rank}, on "
        f"{', '.join(sorted({str(result.device) for result in found if result.device})) or 'nothing yet'}; {chosen}."
        + (f" **{to_come} of {len(cells(config))} runs are still to be made.**" if to_come else "")
    )


def table(shown: list[Result]) -> str:
    """Return the table of some runs."""
    lines = [HEAD, ("---", *("---:" for _ in HEAD[1:])), *map(row, shown)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(result: Result) -> tuple[str, ...]:
    """Return the cells of the table for a run."""
    loss = "diverged" if result.diverged else spelt(result.eval_loss, ".4f")
    return (
        result.optimizer,
        short(result.learning_rate),
        short(result.scale),
        loss,
        spelt(result.bits_per_byte, ".4f"),
        spelt(result.tokens_per_second, ",.0f"),
        spelt(result.optimizer_bytes, ","),
        spelt(result.peak_memory_bytes, ","),
    )


def spelt(number: float | None, form: str) -> str:
    """Format a number that may be missing."""
    return "-" if number is None else format(number, form)


def curves(config: Compare, shown: list[Result]) -> Figure:
    """Draw the held-out loss of each run over the steps."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="held-out loss (nats per token)")
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)  # type: ignore[attr-defined]  # it is a list
    for result in shown:
        evaluations = [r for r in read_rows(config.run_dir / result.folder / METRICS) if "eval_loss" in r]
        label = f"{result.optimizer}, lr {short(result.learning_rate)}, scale {short(result.scale)}"
        axes.plot([r["step"] for r in evaluations], [r["eval_loss"] for r in evaluations], label=label)
    if shown:
        figure.legend(loc="outside right upper", fontsize="small")
    return figure
