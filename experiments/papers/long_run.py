"""Does a moving subspace matter more in a longer run? Figure 8 of arXiv 2510.01878.

    python -m experiments.papers.long_run --scale cpu

The runs of a scale, and runs of ten times as many updates; the paper's are 10,000 and 100,000 at
7B. The rates are chosen at the shorter length.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments.papers.command import main
from experiments.papers.experiment import FROZEN, NEVER, Arm, Experiment, arm_of
from experiments.papers.scales import Scale

_PAPER = {"subtrack": ("4.37", "3.36"), "grasswalk": ("4.37", "3.37"), "grassjump": ("4.27", "3.34")}


def _methods(scale: Scale) -> tuple[Arm, ...]:
    settings: dict[str, dict[str, Any]] = {
        "grassjump": {},
        "grassjump, a fifth of the jumps": {"update_proj_gap": 5 * scale.update_proj_gap},
        "grassjump, completed": {"completion": "isotropic"},
        "grassjump, one random subspace": {"update_proj_gap": NEVER},
    }
    return (
        arm_of("adamw"),
        arm_of("grasswalk"),
        *(Arm(method=name, optimizer="grassjump", settings=own) for name, own in settings.items()),
        FROZEN,
    )


def arms(scale: Scale) -> list[Arm]:
    """Each method at both lengths; of the paper its own methods at 7B."""
    if scale.is_paper:
        return [
            Arm(method=name, optimizer=name, x=steps, preset="paper-7b", settings={"steps": steps}, printed=loss)
            for name, losses in _PAPER.items()
            for steps, loss in zip((10_000, 100_000), losses, strict=True)
        ]
    return at_both_lengths(_methods(scale), scale)


def at_both_lengths(methods: Sequence[Arm], scale: Scale) -> list[Arm]:
    """Each method for the updates of a scale, and for ten times as many."""
    return [
        dataclasses.replace(arm, x=steps, settings={**arm.settings, "steps": steps})
        for arm in methods
        for steps in (scale.steps, 10 * scale.steps)
    ]


EXPERIMENT = Experiment(
    name="long_run",
    title="Length of a run",
    source="arXiv 2510.01878, Table 2 and Figure 8",
    arms=arms,
    x="updates of the run",
    is_x_apart=True,
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
