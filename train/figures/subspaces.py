"""The papers' figures of gradient subspaces, from the rows of diagnostics.jsonl.

A quantity of a row is a list for each type of layer, with a number, or a list of numbers, for each
layer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.compare.figures import style
from train.storage.metrics import Row, whole_steps

COLUMNS, ACROSS = 4, 3  # panels in a line, of types of layers and of quantities
OF_TWO = ("overlap", "angle_mean", "angle_largest")  # of the subspace, and of that before it
SPECTRA = 8  # steps whose spectra are shown
DEPTHS = matplotlib.colormaps["viridis"].resampled(256)


def energy_figure(rows: Sequence[Row], name: str) -> Figure:
    """Return the captured energy of every layer over the steps, beside that of the best subspace,
    the mean over layers, and that of a random one.
    """
    figure, panels = _panels(rows, f"{name}: captured energy")
    for kind, axes in panels:
        by_layer = _over_steps(rows, "captured", kind)
        for layer, values in enumerate(by_layer.T):
            axes.plot(_steps(rows), values, color=_colour(layer, by_layer.shape[1]), linewidth=1.6)
        best = _over_steps(rows, "captured_by_best", kind).mean(axis=1)
        axes.plot(_steps(rows), best, "k--", linewidth=1.6, label="best of this rank (mean of layers)")
        random = _over_steps(rows, "captured_by_random", kind).mean(axis=1)
        axes.plot(_steps(rows), random, "k:", linewidth=1.8, label=r"random: $\sqrt{r/m}$")
        axes.set(ylim=(0, 1.03))
        whole_steps(axes)
    _finish(figure, panels, "step", r"$\|S^T G\| / \|G\|$")
    layers = max(_over_steps(rows, "captured", kind).shape[1] for kind, _ in panels)
    _colour_bar(figure, [axes for _, axes in panels], Normalize(1, max(layers, 2)), "layer, from the first")
    figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="large")
    return figure


def spectrum_figure(rows: Sequence[Row], name: str) -> Figure:
    """Return the singular values of the tangent of the subspace error at some steps: of each, the
    largest over the layers.
    """
    figure, panels = _panels(rows, f"{name}: tangent of the subspace error, largest over layers")
    chosen = np.unique(np.linspace(0, len(rows) - 1, SPECTRA).round().astype(int))
    last = max(rows[-1]["step"], 2)
    for kind, axes in panels:
        for i in chosen:
            values = np.max(rows[i]["tangent_singular_values"][kind], axis=0)
            axes.plot(np.arange(1, len(values) + 1), values, color=DEPTHS(rows[i]["step"] / last), marker="o", ms=3)
        axes.set_yscale("log")
        whole_steps(axes)
    _finish(figure, panels, "i", "i-th singular value\n(squared gradient)")
    _colour_bar(figure, [axes for _, axes in panels], Normalize(0, last), "step")
    return figure


def curvature_figure(rows: Sequence[Row], name: str) -> Figure:
    """Return the Frobenius norm of the tangent over the steps, largest over the layers; and the
    same over the squared gradient, the mean of the layers, which does not fall with the gradient.
    """
    return _by_type(
        rows,
        f"{name}: tangent of the subspace error",
        [
            ("tangent_norm", "Frobenius norm (squared gradient),\nlargest over layers", np.max, "log"),
            ("tangent_relative", r"the same over $\|G\|^2$, mean of layers", np.mean, "linear"),
        ],
    )


def subspaces_figure(rows: Sequence[Row], name: str) -> Figure | None:
    """Return how far the subspaces move at refreshes, and what is recovered outside them; nothing
    if no row has either.
    """
    wanted = [
        ("overlap", "mean squared cosine\nwith the subspace before", np.mean, "part"),
        ("angle_mean", "mean of the angles\nto it (radians)", np.mean, "linear"),
        ("angle_largest", "largest of the angles\nto it (radians)", np.mean, "linear"),
        ("recovered", r"recovered residual $\|L\| / \|G\|$", np.mean, "linear"),
        ("limited", "part of the columns\nthat the limit held down", np.mean, "part"),
    ]
    shown = [panel for panel in wanted if panel[0] in rows[0] and _rows_of(panel[0], rows)]
    return _by_type(rows, f"{name}: means of layers", shown) if shown else None


def _by_type(rows: Sequence[Row], title: str, panels: Sequence[tuple[str, str, Callable[..., Any], str]]) -> Figure:
    """Return a panel for each quantity, with a line for each type of layer."""
    columns = min(ACROSS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns + 2, 5 * lines), layout="constrained")
    figure.suptitle(title, fontsize="x-large")
    kinds, grid = list(rows[0]["captured"]), list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (quantity, label, reduce, scale) in zip(grid, panels, strict=False):
        shown = _rows_of(quantity, rows)
        for number, kind in enumerate(kinds):
            values = reduce(_over_steps(shown, quantity, kind), axis=1)
            axes.plot(_steps(shown), values, label=short_names(kinds)[number], **style(number, len(kinds)))
        axes.set_yscale("log" if scale == "log" else "linear")
        if scale == "part":
            axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("step", fontsize="large")
        axes.set_ylabel(label, fontsize="large")
        axes.grid(alpha=0.3)
        whole_steps(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", handlelength=4)
    return figure


def _rows_of(quantity: str, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have a quantity: before the first update there is no subspace."""
    return [row for row in rows if quantity not in OF_TWO or row["step"] > 1]


def _panels(rows: Sequence[Row], title: str) -> tuple[Figure, list[tuple[str, Axes]]]:
    """Return a figure with a panel for each type of layer."""
    kinds = list(rows[0]["captured"])
    columns = min(COLUMNS, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = Figure(figsize=(3 * columns + 1.5, 2.9 * lines + 0.9), layout="constrained")
    figure.suptitle(title, fontsize="x-large")
    grid = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, kind in zip(grid, short_names(kinds), strict=False):
        axes.set_title(kind, fontsize="large")
        axes.grid(alpha=0.3)
    for axes in grid[len(kinds) :]:
        axes.remove()
    return figure, list(zip(kinds, figure.axes, strict=True))


def short_names(kinds: Sequence[str]) -> list[str]:
    """Return the types without the parts that all of them begin or end with, such as "attn/q"."""
    parts = [kind.split("/") for kind in kinds]
    first = last = 0
    while all(len(part) > first + 1 for part in parts) and len({part[first] for part in parts}) == 1:
        first += 1
    while all(len(part) > first + last + 1 for part in parts) and len({part[-1 - last] for part in parts}) == 1:
        last += 1
    return ["/".join(part[first : len(part) - last]) for part in parts]


def _finish(figure: Figure, panels: Sequence[tuple[str, Axes]], x: str, y: str) -> None:
    figure.supylabel(y, fontsize="x-large")
    for _, axes in panels:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(x, fontsize="large")


def _colour_bar(figure: Figure, panels: Sequence[Axes], norm: Normalize, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, DEPTHS), ax=panels, ticks=MaxNLocator(6, integer=True))
    bar.set_label(label, fontsize="large")


def _colour(layer: int, layers: int) -> Any:
    return DEPTHS(layer / max(layers - 1, 1))


def _steps(rows: Sequence[Row]) -> list[int]:
    return [row["step"] for row in rows]


def _over_steps(rows: Sequence[Row], quantity: str, kind: str) -> Any:
    """Return a quantity as (steps, layers)."""
    return np.asarray([row[quantity][kind] for row in rows])
