"""Which method trains best? Tables 1 and 2 of arXiv 2510.01878.

    python -m experiments.papers.main_comparison --scale cpu

The papers train all methods at one rate. Here each has its own, except at `--scale paper`, which
has theirs. Fira, FOAM, GWT, Alice, Muon, a frozen subspace with recovery and the methods that keep
next to nothing for a matrix are not in the paper.
"""

from experiments.papers.command import main
from experiments.papers.experiment import FROZEN, NEVER, Arm, Experiment, arm_of
from experiments.papers.scales import Scale

_TABLE_1 = (
    Arm(method="adamw", optimizer="adamw", printed="4.10"),
    Arm(method="galore", optimizer="galore", printed="6.17"),
    Arm(method="apollo", optimizer="apollo", printed="5.71"),
    Arm(method="ldadam", optimizer="ldadam", printed="4.10"),
    Arm(method="frugal", optimizer="frugal", printed="4.22"),
    Arm(method="subtrack", optimizer="subtrack", printed="3.89"),
    Arm(method="grasswalk", optimizer="grasswalk", printed="3.86"),
    Arm(method="grassjump", optimizer="grassjump", printed="3.87"),
    Arm(method="grassjump, no QR", optimizer="grassjump", settings={"basis": "gaussian"}, printed="3.87"),
)
_COMPLETED = {"completion": "isotropic"}
_NOT_IN_IT = (
    Arm(method="grassjump, completed", optimizer="grassjump", settings=_COMPLETED),
    Arm(method="grassjump, one random subspace", optimizer="grassjump", settings={"update_proj_gap": NEVER}),
    FROZEN,
    *map(arm_of, ("fira", "muon", "column_sgd", "racs", "sinkgd", "foam", "gwt", "alice")),
)
_PRINTED = {
    "paper-qwen-1.5b": {"adamw": "4.84", "subtrack": "4.70", "grasswalk": "4.68", "grassjump": "4.66"},
    "paper-7b": {"subtrack": "3.36", "grasswalk": "3.37", "grassjump": "3.34"},
}
_OTHER_MODELS = tuple(
    Arm(method=f"{name}, {preset}", optimizer=name, preset=preset, printed=loss)
    for preset, losses in _PRINTED.items()
    for name, loss in losses.items()
)


def arms(scale: Scale) -> tuple[Arm, ...]:
    """The methods; those of the other models of the paper at its own scale only."""
    return _TABLE_1 + (_OTHER_MODELS if scale.is_paper else _NOT_IN_IT)


EXPERIMENT = Experiment(name="main_comparison", title="Methods", source="arXiv 2510.01878, Tables 1 and 2", arms=arms)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
