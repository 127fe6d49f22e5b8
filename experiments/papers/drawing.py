"""The figure of an experiment: means over seeds with their standard deviations."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import SCALES
from experiments.papers.tables import Found, found_by_arm, size_of
from experiments.papers.trained import Outcome, Run
from train.compare.figures import style

LABELS = {"eval_loss": ("held-out loss (nats per token)", 1.0), "seconds": ("time of the updates (minutes)", 1 / 60)}


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
    height = 4.5 if experiment.x else max(3.0, 0.32 * len(points) + 1.2)
    drawn = Figure(figsize=(8, height), layout="constrained")
    axes = drawn.subplots()
    label, _ = LABELS[experiment.metric]
    if experiment.x:
        _lines(axes, points)
        axes.set(xlabel=experiment.x, ylabel=label)
    else:
        _rows(axes, points)
        axes.set(xlabel=label)
    axes.set_title(f"{experiment.title} ({size_of(experiment, scale)})", fontsize="medium")
    axes.grid(alpha=0.3)
    return drawn


Point = tuple[Arm, float, float]  # mean and deviation


def _point(arm: Arm, found: Found, metric: str) -> Point | None:
    unit = LABELS[metric][1]
    values = [unit * value for outcome in found.values() if (value := getattr(outcome, metric)) is not None]
    if not values or len(values) < len(found):
        return None
    return arm, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _lines(axes: Axes, points: Sequence[Point]) -> None:
    names = list(dict.fromkeys(arm.method for arm, *_ in points))
    for number, name in enumerate(names):
        of_method = [(arm.x, mean, deviation) for arm, mean, deviation in points if arm.method == name]
        x, mean, deviation = zip(*sorted(of_method), strict=True)
        axes.errorbar(x, mean, deviation, label=name, capsize=3, **style(number, len(names)))
    if all(arm.x is not None and arm.x > 0 for arm, *_ in points):
        axes.set_xscale("log")
    axes.set_xticks(sorted({arm.x for arm, *_ in points if arm.x is not None}), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend()


def _rows(axes: Axes, points: Sequence[Point]) -> None:
    for number, (_, mean, deviation) in enumerate(points):
        axes.errorbar(mean, number, xerr=deviation, fmt="o", color="#0072B2", capsize=3)
    axes.set_yticks(range(len(points)), [arm.method for arm, *_ in points])
    axes.invert_yaxis()
