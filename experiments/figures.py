"""The figure of tables: a dot for each row, its mean over the seeds, and its standard deviation."""

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LOSS = "held-out loss (nats per token)"
HEIGHT, AROUND = 0.3, 1.2  # of a row, and of title and axis, in inches
WIDTH = 45  # letters in a line of a title


class Panel(NamedTuple):
    """A table: its title, name and unit of the axis, and the values of all seeds by row."""

    title: str
    label: str
    values: Mapping[str, Sequence[float]]


def panels_figure(panels: Sequence[Panel], columns: int = 1, title: str = "") -> Figure:
    """Panels of scales of their own, row by row; in one row of panels they share their names."""
    names = [list(panel.values) for panel in panels]
    is_shared = 1 < len(panels) <= columns
    if is_shared:
        names = [list(dict.fromkeys(name for of_panel in names for name in of_panel))] * len(panels)
    count = math.ceil(len(panels) / columns)
    heights = [AROUND + HEIGHT * max(map(len, names[row * columns : (row + 1) * columns])) for row in range(count)]
    figure = Figure(figsize=(8 if columns == 1 else 5 * columns, sum(heights)), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False, sharey=is_shared, gridspec_kw={"height_ratios": heights})
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel, rows in zip(grid.flat, panels, names, strict=False):
        _draw(axes, panel, rows)
    figure.suptitle(title, fontsize="medium")
    return figure


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    means = [statistics.mean(values) for values in panel.values.values()]
    deviations = [statistics.stdev(values) if len(values) > 1 else math.nan for values in panel.values.values()]
    rows = [names.index(name) for name in panel.values]
    axes.errorbar(means, rows, xerr=deviations, fmt="o", color="#0072B2", capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(panel.label)
    axes.set_title(textwrap.fill(f"{panel.title}, {seeds_of(panel)}", WIDTH), fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)


def seeds_of(panel: Panel) -> str:
    """How many seeds the rows of a panel have."""
    counts = sorted({len(values) for values in panel.values.values()})
    return f"{' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} seed{'s' if counts[-1] > 1 else ''}"
