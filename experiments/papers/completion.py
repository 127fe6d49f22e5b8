"""Do frequent jumps need isotropic completion? Those of Table 4 of arXiv 2510.01878 are worse.

    python -m experiments.papers.completion --scale cpu

After a jump only a share r/m of the second moments stays, so the next steps are larger. Isotropic
completion puts back what is lost. The intervals are a quarter of that of the scale, that one, and
five times as much. Each has a rate of its own, as at one rate larger steps could be all that
differs.
"""

from experiments.papers.command import main
from experiments.papers.experiment import Arm, Experiment
from experiments.papers.scales import Scale

FACTORS = (0.25, 1, 5)  # of the interval of a scale
_COMPLETIONS = ("none", "isotropic")


def arms(scale: Scale) -> list[Arm]:
    """Both completions at each interval."""
    return [
        Arm(
            method=f"grassjump, completion {completion}",
            optimizer="grassjump",
            x=gap,
            settings={"update_proj_gap": gap, "completion": completion},
        )
        for completion in _COMPLETIONS
        for gap in (int(factor * scale.update_proj_gap) for factor in FACTORS)
    ]


EXPERIMENT = Experiment(
    name="completion",
    title="Completion",
    source="arXiv 2510.01878, Table 4, with completed moments",
    arms=arms,
    x="T, updates between subspaces",
    tunes_each_arm=True,
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
