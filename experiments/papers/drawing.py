"""The figure of an experiment: means over seeds with their standard deviations."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import LOSS, Panel, panels_figure
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import SCALES
from experiments.papers.tables import Found, found_by_arm, size_of
from experiments.papers.trained import Outcome, Run
from train.compare.figures import style

LABELS = {"eval_loss": (LOSS, 1.0), "seconds": ("time of the updates (minutes)", 1 / 60)}


class Point(NamedTuple):
    """An arm, and the values of its seeds."""

    arm: Arm
    values: list[float]


def figure(experiment: Experiment, name: str, outcomes: Mapping[Run, Outcome]) -> Figure | None:
    """The figure of a scale; None if it has no finished runs."""
    scale = SCALES[name]
    found = found_by_arm(experiment, scale, outcomes)
    points = [
        point
        for arm, of_seed in zip(experiment.arms(scale), found, strict=True)
        if (point := _point(arm, of_seed, experiment.metric))
    ]
    if not points:
        return None
    label, title = LABELS[experiment.metric][0], f"{experiment.title} ({size_of(experiment, scale)})"
    if not experiment.x:
        return panels_figure([Panel(title, label, {point.arm.method: point.values for point in points})])
    if experiment.is_x_apart:
        return _by_x(points, experiment.x, label, title)
    drawn = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawn.subplots()
    _lines(axes, points)
    axes.set(xlabel=experiment.x, ylabel=label)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    return drawn


def _point(arm: Arm, found: Found, metric: str) -> Point | None:
    unit = LABELS[metric][1]
    values = [unit * value for outcome in found.values() if (value := getattr(outcome, metric)) is not None]
    return Point(arm, values) if values and len(values) == len(found) else None


def _by_x(points: Sequence[Point], x: str, label: str, title: str) -> Figure:
    panels = [
        Panel(f"{at:g} {x}", label, {point.arm.method: point.values for point in points if point.arm.x == at})
        for at in sorted({point.arm.x for point in points if point.arm.x is not None})
    ]
    return panels_figure(panels, columns=len(panels), title=title)


def _lines(axes: Axes, points: Sequence[Point]) -> None:
    names = list(dict.fromkeys(point.arm.method for point in points))
    for number, name in enumerate(names):
        of_method = sorted((point.arm.x or 0.0, point.values) for point in points if point.arm.method == name)
        x = [at for at, _ in of_method]
        mean = [statistics.mean(values) for _, values in of_method]
        deviation = [statistics.stdev(values) if len(values) > 1 else math.nan for _, values in of_method]
        axes.errorbar(x, mean, deviation, label=name, capsize=3, **style(number, len(names)))
    if all(point.arm.x is not None and point.arm.x > 0 for point in points):
        axes.set_xscale("log")
    axes.set_xticks(sorted({point.arm.x for point in points if point.arm.x is not None}), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend()
