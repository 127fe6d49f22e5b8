"""The losses of long runs on their way: over updates, and over the time of the updates."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import LOSS
from experiments.papers.experiment import Experiment
from experiments.papers.scales import SCALES
from experiments.papers.tables import Found, found_by_arm, size_of
from experiments.papers.trained import Outcome, Run
from train.compare.figures import style


def curves_figure(experiment: Experiment, scale_name: str, outcomes: Mapping[Run, Outcome]) -> Figure | None:
    """Means over the seeds that have a curve; None if no run of the scale has one."""
    scale = SCALES[scale_name]
    found = found_by_arm(experiment, scale, outcomes)
    drawn = [(arm, curve) for arm, of_seed in zip(experiment.arms(scale), found, strict=True)
             if (curve := _mean(of_seed)) is not None]  # fmt: skip
    methods = [arm.method for arm, _ in drawn]
    setting = experiment.x.partition(",")[0]
    curves = {
        arm.method if methods.count(arm.method) == 1 else f"{arm.method}, {setting} = {arm.x:g}": curve
        for arm, curve in drawn
    }
    if not curves:
        return None
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(f"{experiment.title} ({size_of(experiment, scale)})", fontsize="medium")
    panels = figure.subplots(1, 2, sharey=True)
    labels = {"updates": 1, "time of the updates (minutes)": 60}
    for column, (axes, (label, unit)) in enumerate(zip(panels, labels.items(), strict=True)):
        for number, (name, curve) in enumerate(curves.items()):
            axes.plot(curve[1:, column] / unit, curve[1:, 2], label=name, **style(number, len(curves)))
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(LOSS)
    panels[1].legend()
    return figure


def _mean(of_seed: Found) -> np.ndarray | None:
    """(evaluations, 3): updates, seconds and loss, the first before any update. Without runs that
    diverged.
    """
    curves = [np.asarray(outcome.curve) for outcome in of_seed.values() if outcome.curve and outcome.eval_loss]
    longest = max(map(len, curves), default=0)
    whole = [curve for curve in curves if len(curve) == longest]  # one that began before has fewer points
    return np.mean(whole, axis=0) if whole else None
