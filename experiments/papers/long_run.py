"""Does a moving subspace matter more in a longer run? Figure 8 of arXiv 2510.01878.

    python -m experiments.papers.long_run --scale cpu

The runs of a scale, and runs of ten times as many updates; the paper's are 10,000 and 100,000 at
7B. The rates are chosen at the shorter length.
"""

from typing import Any

from experiments.papers.command import main
from experiments.papers.experiment import NEVER, Arm, Experiment
from experiments.papers.scales import Scale

_FROZEN = {"rule": "frozen", "residual": "recovery"}
_PAPER = {"subtrack": ("4.37", "3.36"), "grasswalk": ("4.37", "3.37"), "grassjump": ("4.27", "3.34")}


def _methods(scale: Scale) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    return (
        ("adamw", "adamw", {}),
        ("grasswalk", "grasswalk", {}),
        ("grassjump", "grassjump", {}),
        ("grassjump, a fifth of the jumps", "grassjump", {"update_proj_gap": 5 * scale.update_proj_gap}),
        ("grassjump, completed", "grassjump", {"completion": "isotropic"}),
        ("grassjump, one random subspace", "grassjump", {"update_proj_gap": NEVER}),
        ("frozen + recovery", "assemble", _FROZEN),
    )


def arms(scale: Scale) -> list[Arm]:
    """Each method at both lengths; of the paper its own methods at 7B."""
    if scale.preset == "paper-1b":
        return [
            Arm(method=name, optimizer=name, x=steps, preset="paper-7b", settings={"steps": steps}, printed=loss)
            for name, losses in _PAPER.items()
            for steps, loss in zip((10_000, 100_000), losses, strict=True)
        ]
    return [
        Arm(method=name, optimizer=optimizer, x=steps, settings={**settings, "steps": steps})
        for name, optimizer, settings in _methods(scale)
        for steps in (scale.steps, 10 * scale.steps)
    ]


EXPERIMENT = Experiment(
    name="long_run",
    title="Length of a run",
    source="arXiv 2510.01878, Table 2 and Figure 8",
    arms=arms,
    x="updates of the run",
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
