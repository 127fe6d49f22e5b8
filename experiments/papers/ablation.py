"""What do the rule, the transport and the residual contribute? Figure 3 of arXiv 2510.01878.

    python -m experiments.papers.ablation --scale cpu

Four rules, each alone, with rotated moments (AO), with recovery scaling (RS), and with both; and a
subspace that stays where it began. Each cell has a learning rate of its own.
"""

import dataclasses

from experiments.papers.command import main
from experiments.papers.experiment import FROZEN, Arm, Experiment
from experiments.papers.scales import Scale

_RULES = {"random_jump": "jump", "random_walk": "walk", "tracking": "tracking", "svd": "SVD"}
_CELLS = {
    "": ("keep", "dropped"),
    "AO": ("rotate", "dropped"),
    "RS": ("keep", "recovery"),
    "AO + RS": ("rotate", "recovery"),
}
_PRINTED = {
    "tracking": ("5.97", "4.74", "5.06", "3.89"),
    "random_walk": ("6.18", "4.66", "5.06", "3.86"),
    "random_jump": ("6.16", "4.94", "4.89", "3.87"),
    "svd": ("6.17", "4.79", "5.30", "4.00"),
}


def _cell(rule: str, parts: str, printed: str) -> Arm:
    transport, residual = _CELLS[parts]
    name = f"{_RULES[rule]} + {parts}" if parts else _RULES[rule]
    settings = {"rule": rule, "transport": transport, "residual": residual}
    return Arm(method=name, optimizer="assemble", settings=settings, printed=printed)


ARMS = (
    *(_cell(rule, parts, loss) for rule in _RULES for parts, loss in zip(_CELLS, _PRINTED[rule], strict=True)),
    dataclasses.replace(FROZEN, method="frozen + RS", printed="5.06"),
)


def arms(scale: Scale) -> tuple[Arm, ...]:
    """The cells of the grid, the same at every scale."""
    del scale
    return ARMS


EXPERIMENT = Experiment(name="ablation", title="Parts of a method", source="arXiv 2510.01878, Figure 3", arms=arms)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
