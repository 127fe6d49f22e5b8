"""Does a subspace method beat Muon if both keep as much?

    python -m experiments.papers.equal_memory --scale cpu

Muon keeps one number for each weight of a matrix, mn. The ranks are those at which the others keep
the same: mr + 2nr with a stored basis, 2nr with FOAM's. At the papers' rank, a quarter of the
hidden size, they keep less. Each has a learning rate and a scale of its own, as in
`experiments.papers.ratio`.
"""

import dataclasses

from experiments.papers.command import main
from experiments.papers.experiment import FROZEN, Arm, Experiment, arm_of
from experiments.papers.ratio import frequent_jumps
from experiments.papers.scales import Scale
from models.config import CONFIGS


def rank_of_equal_state(model: str) -> int:
    """The rank at which the matrices of a layer have mr + 2nr numbers of state for mn weights."""
    config = CONFIGS[model]
    hidden, inner = config.hidden_size, config.intermediate_size
    few = config.kv_heads * config.head_dim
    shapes = [(hidden, hidden)] * 2 + [(few, hidden)] * 2 + [(hidden, inner)] * 3  # m <= n
    return sum(m * n for m, n in shapes) // sum(m + 2 * n for m, n in shapes)


def arms(scale: Scale) -> list[Arm]:
    """Muon, and the others at the rank of its state."""
    rank = rank_of_equal_state(scale.model)
    return [
        arm_of("muon"),
        *(Arm(method=name, optimizer=name, settings={"rank": rank}) for name in ("grasswalk", "subtrack")),
        dataclasses.replace(FROZEN, settings={**FROZEN.settings, "rank": rank}),
        frequent_jumps(scale, rank=rank),
        Arm(method="foam", optimizer="foam", settings={"rank": CONFIGS[scale.model].hidden_size // 2}),
    ]


EXPERIMENT = Experiment(
    name="equal_memory",
    title="The state of Muon",
    source="Muon's state, mn",
    arms=arms,
    tunes=("learning_rate", "scale"),
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
