"""How far should a walk go? Table 6 of arXiv 2510.01878.

    python -m experiments.papers.step_size --scale cpu

The paper multiplies eta, 10 to 10,000, by the singular values of a Gaussian matrix: all of these
are uniformly random angles, and its row is flat (3.98 to 3.99). The angles here are in radians,
from one that hardly moves to a right angle; random angles are drawn at 3.14.
"""

import math

from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale

RANDOM = round(math.pi, 2)  # where random angles are drawn
ANGLES = (RANDOM, 0.01, 0.1, 0.5, round(math.pi / 2, 2))


def arms(scale: Scale) -> list[Arm]:
    """GrassWalk with each angle."""
    del scale
    return [
        Arm(
            method="grasswalk",
            optimizer="grasswalk",
            x=angle,
            settings={"step_size": None if angle == RANDOM else angle},
            printed="3.98 to 3.99" if angle == RANDOM else "-",
        )
        for angle in ANGLES
    ]


EXPERIMENT = Experiment(
    name="step_size",
    title="Step of a walk",
    source="arXiv 2510.01878, Table 6",
    arms=arms,
    x="eta, the angle of a step in radians (3.14: random)",
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
