"""What is left when every method also has its own ratio between matrices and the other parameters?

    python -m experiments.papers.ratio --scale cpu

The subspace methods multiply the update of a matrix by a scale, a quarter by default, and so train
embeddings, head and norms faster than matrices; AdamW trains all alike. Here each method has a
learning rate and a scale of which neither a step up nor down is better.
"""

from typing import Any

from experiments.papers.command import main
from experiments.papers.experiment import FROZEN, Arm, Experiment, arm_of
from experiments.papers.scales import Scale


def frequent_jumps(scale: Scale, **settings: Any) -> Arm:
    """GrassJump as it is best: with frequent jumps and completed moments."""
    often = {"update_proj_gap": scale.update_proj_gap // 4, "completion": "isotropic"}
    return Arm(method="grassjump, completed, T/4", optimizer="grassjump", settings=often | settings)


def arms(scale: Scale) -> list[Arm]:
    """The methods, the same at every scale."""
    return [
        *map(arm_of, ("adamw", "muon", "column_sgd", "racs", "foam", "grassjump")),
        frequent_jumps(scale),
        *map(arm_of, ("grasswalk", "subtrack")),
        FROZEN,
        *map(arm_of, ("fira", "galore")),
    ]


EXPERIMENT = Experiment(
    name="ratio",
    title="Methods with their own ratios",
    source="arXiv 2510.01878, Table 1, with one more choice",
    arms=arms,
    tunes=("learning_rate", "scale"),
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
