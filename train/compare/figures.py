"""The plot of a comparison: held-out losses over the steps, and over the learning rates of a sweep.

Contestants differ in colour, dashes, marker and width, so that curves that lie on each other are
seen, and without colours too. The first seven colours are those of Okabe and Ito for colour-blind
readers; the others, darker ones, were chosen to differ as much from these and from each other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from train.storage.metrics import whole_steps

COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000",
    "#882255", "#117733", "#4B0092", "#661100", "#004488",
)  # fmt: skip
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "os^DvPX*<>phd"  # their number has no factor in common with that of the colours


class Curve(NamedTuple):
    """The held-out losses of a run.

    Attributes:
      name: The contestant.
      settings: What it was trained with, for the legend.
      steps, losses: Its evaluations.
    """

    name: str
    settings: str
    steps: Sequence[int]
    losses: Sequence[float]


class Trial(NamedTuple):
    """A run of a sweep; its loss is the last, and None if it diverged."""

    name: str
    learning_rate: float
    loss: float | None


def comparison_figure(curves: Sequence[Curve], trials: Sequence[Trial], loss: str) -> Figure:
    """Return the figure.

    Args:
      curves: The best run of each contestant, at least one.
      trials: All runs. A second panel shows them if a contestant has several learning rates.
      loss: Name and unit of the losses.
    """
    rates = {trial.name: {other.learning_rate for other in trials if other.name == trial.name} for trial in trials}
    is_swept = any(len(of_one) > 1 for of_one in rates.values())
    names = list(dict.fromkeys([curve.name for curve in curves] + [trial.name for trial in trials]))
    styles = {name: style(number, len(names)) for number, name in enumerate(names)}
    figure = Figure(figsize=(14 if is_swept else 9, 5), layout="constrained")
    first, *others = figure.subplots(1, 1 + is_swept, squeeze=False)[0]
    first.set(xlabel="step", ylabel=loss)
    for curve in curves:
        label = f"{curve.name}, {curve.settings}"
        first.plot(curve.steps, curve.losses, label=label, **styles[curve.name])
    whole_steps(first)
    for axes in others:
        axes.set(xlabel="learning rate" + (", each with its best scale" if len(trials) > _pairs(trials) else ""))
        axes.set(ylabel=f"{loss}, at the end")
        _plot_rates(axes, trials, styles)
    for axes in (first, *others):
        axes.grid(alpha=0.3)
    figure.legend(*first.get_legend_handles_labels(), loc="outside right upper", fontsize="small", handlelength=4)
    return figure


def style(number: int, of: int) -> dict[str, Any]:
    """Return the look of a contestant; later ones lie on top, so they are thinner."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "linewidth": 3.2 - 2 * number / max(of - 1, 1),
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 8 - 3 * number / max(of - 1, 1),
        "markerfacecolor": "none",
    }


def best_by_rate(trials: Sequence[Trial], name: str) -> dict[float, float]:
    """Return the least loss of a contestant at each learning rate, inf where all runs diverged."""
    losses = [(t.learning_rate, math.inf if t.loss is None else t.loss) for t in trials if t.name == name]
    return {rate: min(loss for other, loss in losses if other == rate) for rate in sorted({rate for rate, _ in losses})}


def _plot_rates(axes: Axes, trials: Sequence[Trial], styles: Mapping[str, Mapping[str, Any]]) -> None:
    axes.set_xscale("log")
    diverged: list[tuple[str, float]] = []
    for name, look in styles.items():
        best = best_by_rate(trials, name)
        finite = {rate: loss for rate, loss in best.items() if math.isfinite(loss)}
        axes.plot(list(finite), list(finite.values()), **look)
        diverged += [(name, rate) for rate in best if rate not in finite]
    if diverged:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))
        axes.set_title("x: diverged", fontsize="small", loc="right")
    for name, rate in diverged:  # in a band of their own above all losses, below each other
        height = 0.98 - 0.1 * list(styles).index(name) / len(styles)
        color = styles[name]["color"]
        axes.plot(rate, height, "x", color=color, transform=axes.get_xaxis_transform(), markeredgewidth=2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _pairs(trials: Sequence[Trial]) -> int:
    return len({(trial.name, trial.learning_rate) for trial in trials})
