"""Do methods with their own ratios keep their order in a longer run?

    python -m experiments.papers.long_ratio --scale cpu

The methods of `experiments.papers.ratio` at their rates and scales, for ten times as many updates.
"""

from experiments.papers import ratio
from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.long_run import at_both_lengths
from experiments.papers.scales import Scale


def arms(scale: Scale) -> list[Arm]:
    """Each method at both lengths; the shorter one chooses its rates."""
    return at_both_lengths(ratio.arms(scale), scale)


EXPERIMENT = Experiment(
    name="long_ratio",
    title="Length of a run, with own ratios",
    source="arXiv 2510.01878, Figure 8, with one more choice",
    arms=arms,
    x="updates of the run",
    is_x_apart=True,
    tunes=("learning_rate", "scale"),
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
