"""What does it cost to move the subspaces often? Figure 4 and Table 15 of arXiv 2502.01586.

    python -m experiments.papers.wall_time --scale cpu

The time of the updates of a run. One run is made at a time, and none is taken from another
experiment, whose runs may have shared the machine. Leave the machine alone meanwhile.
The paper has GaLore and SubTrack-Grad, fine-tuning and pretraining at 50 to 500 steps of 2500.
"""

from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale

METHODS = ("galore", "subtrack_grad", "grasswalk", "grassjump")
SHARES = (50, 30, 12, 5)  # refreshes of a run: 2500 updates at intervals of 50, 83, 208, 500


def arms(scale: Scale) -> list[Arm]:
    """Each method at each interval."""
    gaps = [max(scale.steps // share, 1) for share in SHARES]
    return [
        Arm(method=name, optimizer=name, x=gap, settings={"update_proj_gap": gap}) for name in METHODS for gap in gaps
    ]


EXPERIMENT = Experiment(
    name="wall_time",
    title="Time against the interval",
    source="arXiv 2502.01586, Figure 4 and Table 15",
    arms=arms,
    x="T, updates between subspaces",
    metric="seconds",
    tunes=(),
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
