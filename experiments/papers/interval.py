"""How often should a subspace move? Table 4 of arXiv 2510.01878.

    python -m experiments.papers.interval --scale cpu

At 10,000 updates the intervals are the paper's; shorter runs have the same shares of the run. The
paper has one rate for all of them. Here each has its own, as moments that are moved often make
larger steps (`experiments.transports`).
"""

from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale

INTERVALS = (100, 20, 50, 200, 500, 1000, 2000)  # of 10,000 updates
_PRINTED = {
    "subtrack": ("3.89", "not converged", "3.86", "3.99", "4.25", "4.45", "4.68"),
    "grasswalk": ("3.86", "3.72", "3.79", "3.98", "4.25", "4.46", "4.68"),
    "grassjump": ("3.87", "4.33", "4.34", "3.96", "4.15", "4.75", "4.89"),
}


def arms(scale: Scale) -> list[Arm]:
    """Each method at each interval."""
    found = [
        Arm(method=name, optimizer=name, x=gap, settings={"update_proj_gap": gap}, printed=loss)
        for name, losses in _PRINTED.items()
        for interval, loss in zip(INTERVALS, losses, strict=True)
        for gap in (max(round(interval * scale.steps / 10_000), 1),)
    ]
    return list({(arm.method, arm.x): arm for arm in found}.values())  # short runs have fewer


EXPERIMENT = Experiment(
    name="interval",
    title="Interval",
    source="arXiv 2510.01878, Table 4",
    arms=arms,
    x="T, updates between subspaces",
    tunes_each_arm=True,
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
