"""Do methods with their own ratios keep their order in a longer run?

    python -m experiments.papers.long_ratio --scale cpu

The methods of `experiments.papers.ratio` at their rates and scales, for ten times as many updates.
"""

import dataclasses

from experiments.papers import ratio
from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale


def arms(scale: Scale) -> list[Arm]:
    """Each method at both lengths; the shorter one chooses its rates."""
    return [
        dataclasses.replace(arm, x=steps, settings={**arm.settings, "steps": steps})
        for arm in ratio.arms(scale)
        for steps in (scale.steps, 10 * scale.steps)
    ]


EXPERIMENT = Experiment(
    name="long_ratio",
    title="Length of a run, with own ratios",
    source="arXiv 2510.01878, Figure 8, with one more choice",
    arms=arms,
    x="updates of the run",
    tunes=("learning_rate", "scale"),
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
