"""The losses of runs, over what they cost."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from train.compare.figures import style
from train.storage.metrics import Row, whole_steps
from train.watch.charts import thinned


class Losses(NamedTuple):
    """The losses of a run.

    Attributes:
      name, settings: Its name, and what it was trained with, for the legend.
      updates, evaluations: Its rows.
    """

    name: str
    settings: str
    updates: Sequence[Row]
    evaluations: Sequence[Row]


def loss_figure(runs: Sequence[Losses], unit: str) -> Figure:
    """Return the losses over steps, tokens and seconds: held-out ones as lines with markers, those
    of training as thin lines, each point the mean of neighbours if they are many.
    """
    figure = Figure(figsize=(15, 5), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (x, name) in zip(
        panels, {"step": "steps", "tokens": "tokens", "seconds": "seconds of training"}.items(), strict=True
    ):
        axes.set_xlabel(name, fontsize="large")
        axes.grid(alpha=0.3)
        for number, run in enumerate(runs):
            look = style(number, len(runs))
            updates = [row for row in run.updates if x in row]
            points = list(thinned([row[x] for row in updates], [row["loss"] for row in updates]))
            axes.plot([p.x for p in points], [p.y for p in points], color=look["color"], alpha=0.45, linewidth=1)
            held_out = [(row[x], row["eval_loss"]) for row in run.evaluations if x in row]
            steps, losses = zip(*held_out, strict=True) if held_out else ((), ())
            axes.plot(steps, losses, label=f"{run.name}, {run.settings}", **look)
    whole_steps(panels[0])
    panels[1].xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel(f"loss ({unit})\nmarkers: held out, thin: training", fontsize="large")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, handlelength=4)
    return figure
