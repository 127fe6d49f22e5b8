"""The report of a run: one HTML page that needs nothing else, of a run that may not be finished."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from train.config.finetune import Finetune
from train.config.stored import Stored, settings_of
from train.storage.folder import RunFolder
from train.storage.metrics import Row, evaluations_of, updates_of
from train.storage.quantities import BOTH, EVALUATIONS, UPDATES, loss_unit, number, unit_of
from train.system.files import write_whole
from train.watch.charts import Curve, chart

STYLE = Path(__file__).with_name("page.css").read_text()
TITLES = {
    "loss": "Training loss",
    "lr": "Learning rate",
    "tokens_per_second": "Speed",
    "mfu": "MFU",
    "peak_memory_bytes": "Peak memory",
    "eval_loss": "Held-out loss",
    "step": "Updates",
    "seconds": "Training time",
    "optimizer_bytes": "Optimizer state",
}


class Results(NamedTuple):
    """What a run has so far; a finished one has everything.

    Attributes:
      rows: The rows of metrics.jsonl.
      sample: A text that the model wrote.
      summary: The content of summary.json.
    """

    rows: Sequence[Row]
    sample: str | None = None
    summary: Mapping[str, Any] | None = None


def write_report(folder: RunFolder, results: Results) -> None:
    """Write report.html into the folder of a run."""
    write_whole(folder.report, as_html(folder.path.absolute().name, folder.stored(), results))


def as_html(name: str, stored: Stored, results: Results) -> str:
    """Return the report of the run in a folder called `name`."""
    unit = loss_unit(stored.config)
    charts = "".join(all_charts(results.rows, unit))
    parts = [
        _heading(name, stored, results),
        _tiles(_key_numbers(results), unit),
        f'<h2>Curves</h2><div class="charts">{charts}</div>' if charts else "<p>There is no update yet.</p>",
        f"<h2>Sample</h2><pre>{escape(results.sample)}</pre>" if results.sample else "",
        _summary(results.summary, unit),
        "<h2>Settings</h2>" + _groups(settings_of(stored.config)),
        "<h2>Machine and versions</h2>" + _groups({"machine": stored.machine, "versions": stored.versions}),
        f'<p class="quiet">To repeat it: {escape(_command(stored))} --config {escape(name)}/config.json '
        "--run-dir FOLDER</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{STYLE}</style></head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def all_charts(rows: Sequence[Row], unit: str) -> Iterator[str]:
    """Yield a chart for each question that the rows can answer; `unit` is that of losses."""
    updates, evaluations = updates_of(rows), evaluations_of(rows)
    if not updates:
        return
    for name in ("step", "tokens", "seconds"):
        curves = [_curve("training", updates, name, "loss"), _held_out(evaluations, name, "eval_loss", is_line=False)]
        yield _chart("Loss", unit, name, curves)
    for name in EVALUATIONS:
        if any(name in row for row in evaluations):
            yield _chart(_title(name), unit_of(name, unit), "step", [_held_out(evaluations, "step", name)])
    for name in UPDATES:
        if name != "loss" and any(name in row for row in updates):
            yield _chart(_title(name), unit_of(name, unit), "step", [_curve("training", updates, "step", name)])


def _chart(title: str, unit: str, x: str, curves: Sequence[Curve]) -> str:
    curves = [curve for curve in curves if curve.xs]
    x_name = {"step": "steps", "seconds": "seconds of training"}.get(x, BOTH[x].unit)
    return chart(title, x_name, unit, curves, is_whole=x == "step") if curves else ""


def _curve(name: str, rows: Sequence[Row], x: str, y: str) -> Curve:
    points = [(row[x], row[y]) for row in rows if x in row and y in row]
    return Curve(name, [x for x, _ in points], [y for _, y in points])


def _held_out(rows: Sequence[Row], x: str, y: str, is_line: bool = True) -> Curve:
    return _curve("held out", rows, x, y)._replace(is_line=is_line, colour="c1")


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ").capitalize())


def _heading(name: str, stored: Stored, results: Results) -> str:
    config, last = stored.config, results.rows[-1]["step"] if results.rows else 0
    what = str(config.start.init_from) if isinstance(config, Finetune) else config.model.model
    steps = config.schedule.steps
    state = "finished" if results.summary else f"not finished: {last:,}{f' of {steps:,}' if steps else ''} steps so far"
    return (
        f"<h1>{escape(name)}</h1><p>{escape(_command(stored).split()[-1])}: {escape(what)} with "
        f"{escape(config.optimizer.optimizer)}, {state}</p>"
    )


def _command(stored: Stored) -> str:
    return f"python -m train {type(stored.config).__name__.lower()}"


def _key_numbers(results: Results) -> dict[str, float]:
    """Return the newest numbers, those of the summary first."""
    newest: dict[str, float] = {}
    for row in results.rows:
        newest |= row
    newest |= results.summary or {}
    first = (
        "eval_loss",
        "bits_per_byte",
        *EVALUATIONS,
        "loss",
        "step",
        "tokens",
        "seconds",
        "tokens_per_second",
        "mfu",
    )
    names = dict.fromkeys((*first, "optimizer_bytes", "peak_memory_bytes", "parameters"))
    return {name: newest[name] for name in names if name in newest}


def _tiles(numbers: Mapping[str, float], unit: str) -> str:
    def tile(name: str, value: float) -> str:
        text, of = number(value), unit_of(name, unit)
        if name == "seconds":
            text, of = str(datetime.timedelta(seconds=round(value))), ""
        if name == "tokens" and value >= 1e9:
            text = f"{value / 1e9:,.2f} billion"
        if of == "bytes":
            text, of = f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.2f} MB", ""
        under = _title(name)
        return f'<div class="tile"><b>{escape(text)}</b>{escape(under)}{_in(of, under)}</div>'

    return f'<div class="tiles">{"".join(tile(*item) for item in numbers.items())}</div>'


def _in(unit: str, name: str) -> str:
    return f", {escape(unit)}" if unit and unit.lower() not in name.lower() else ""


def _summary(summary: Mapping[str, Any] | None, unit: str) -> str:
    if not summary:
        return ""
    rows = {name: f"{number(value)} {unit_of(name, unit)}".rstrip() for name, value in summary.items()}
    return "<h2>Summary</h2>" + _groups({"": rows})


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> str:
    tables = [_table(name, values) for name, values in groups.items() if values]
    return f'<div class="groups">{"".join(tables)}</div>'


def _table(name: str, values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(text(value))}</td></tr>" for key, value in values.items())
    return f"<table>{f'<caption>{escape(name)}</caption>' if name else ''}{rows}</table>"
