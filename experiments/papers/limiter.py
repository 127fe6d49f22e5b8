"""What does the limiter of the recovered part do? Table 5 of arXiv 2510.01878.

    python -m experiments.papers.limiter --scale cpu

zeta is `--max-norm-growth`. No limit, the paper's infinity, is drawn at 100. Each limit has a rate
of its own, which the paper's do not have.
"""

from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale

NO_LIMIT = 100.0  # where it is drawn
_PRINTED = {
    "grasswalk": {1.01: "3.26", 0.1: "3.44", 10.0: "3.41", NO_LIMIT: "3.42"},
    "grassjump": {1.01: "3.30", 0.1: "3.45", 10.0: "3.44", NO_LIMIT: "3.44"},
}


def arms(scale: Scale) -> list[Arm]:
    """Each method with each limit."""
    del scale
    return [
        Arm(
            method=name,
            optimizer=name,
            x=zeta,
            settings={"max_norm_growth": None if zeta == NO_LIMIT else zeta},
            printed=loss,
        )
        for name, losses in _PRINTED.items()
        for zeta, loss in losses.items()
    ]


EXPERIMENT = Experiment(
    name="limiter",
    title="Norm-growth limit",
    source="arXiv 2510.01878, Table 5",
    arms=arms,
    x="zeta, the largest growth (100: no limit)",
    tunes_each_arm=True,
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
