"""How does the loss depend on the rank? Table 3 of arXiv 2510.01878.

    python -m experiments.papers.rank --scale cpu

The ranks are a quarter, a half, one and two times that of the scale; the paper has the last three
at an interval of 200.
"""

from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale

_PRINTED = {
    "grasswalk": {0.5: "4.62", 1: "4.52", 2: "4.43"},
    "grassjump": {0.5: "4.54", 1: "4.50", 2: "4.45"},
}


def arms(scale: Scale) -> list[Arm]:
    """Each method at each rank."""
    return [
        Arm(
            method=name,
            optimizer=name,
            x=rank,
            settings={"rank": rank, "update_proj_gap": 2 * scale.update_proj_gap},
            printed=printed.get(factor, "-"),
        )
        for name, printed in _PRINTED.items()
        for factor in (1, 0.25, 0.5, 2)
        for rank in (int(factor * scale.rank),)
    ]


EXPERIMENT = Experiment(
    name="rank", title="Rank", source="arXiv 2510.01878, Table 3", arms=arms, x="rank, the dimension of the subspaces"
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
