"""Do the methods keep their order in larger models? Tables 3, 6 and 7 of arXiv 2502.01586.

    python -m experiments.papers.sizes --scale cpu

Each method has a rate of its own in each model, and a quarter of the hidden size as rank. At
`--scale paper` rates and ranks are those of the paper's Table 14. It prints the loss, the seconds
of 2000 updates (a table here has the minutes of all), and the peak of memory in GB. Elsewhere, the
methods are those that lead the smallest model, and their rivals.
"""

import dataclasses

from experiments.papers.command import main
from experiments.papers.experiment import FROZEN, Arm, Experiment, arm_of
from experiments.papers.scales import Scale
from models.config import CONFIGS
from models.parameters import count_parameters
from train.config.presets import PRESETS

_NAMES = ("adamw", "muon", "column_sgd", "foam", "grassjump", "grasswalk", "subtrack")
_METHODS = (*map(arm_of, _NAMES), FROZEN)
_WINDOWS = {"tiny": 16, "20m": 8}  # the same tokens per update in both models
_PRESETS = ("subtrack-60m", "subtrack-130m", "subtrack-350m", "subtrack-1b", "subtrack-3b")
_PRINTED = {
    "adamw": (
        ("3.41", "3.25", "3.40", "4.61", "4.52"),
        ("524", "1035", "1396", "975", "1056"),
        ("16.86", "25.32", "28.67", "18.83", "34.92"),
    ),
    "galore": (
        ("4.02", "3.61", "3.62", "6.53", "6.57"),
        ("548", "1094", "1589", "1730", "2716"),
        ("16.89", "25.51", "27.85", "15.24", "26.03"),
    ),
    "badam": (
        ("7.86", "7.08", "7.62", "7.28", "7.12"),
        ("511", "779", "962", "799", "1004"),
        ("13.34", "20.01", "21.11", "9.70", "15.25"),
    ),
    "subtrack_grad": (
        ("4.13", "3.77", "3.82", "6.53", "6.59"),
        ("535", "1061", "1466", "1191", "1386"),
        ("16.89", "25.52", "27.85", "15.24", "26.16"),
    ),
}


def arms(scale: Scale) -> list[Arm]:
    """Each method in each model."""
    if scale.is_paper:
        return [
            _in_preset(arm_of(name), preset, f"{loss}, {seconds} s, {memory} GB")
            for name, printed in _PRINTED.items()
            for preset, loss, seconds, memory in zip(_PRESETS, *printed, strict=True)
        ]
    if scale.preset is not None:
        return [_in_preset(arm, preset) for arm in _METHODS for preset in _PRESETS[:3]]
    return [
        dataclasses.replace(arm, x=_millions(model), model=model, settings={**arm.settings, "batch_size": windows})
        for arm in _METHODS
        for model, windows in _WINDOWS.items()
    ]


def _in_preset(arm: Arm, preset: str, printed: str = "-") -> Arm:
    return dataclasses.replace(arm, x=_millions(PRESETS[preset].model), preset=preset, printed=printed)


def _millions(model: str) -> float:
    return round(count_parameters(CONFIGS[model]) / 1e6, 1)


EXPERIMENT = Experiment(
    name="sizes",
    title="Sizes of the model",
    source="arXiv 2502.01586, Tables 3, 6 and 7",
    arms=arms,
    x="millions of parameters",
    tunes_each_arm=True,
)


if __name__ == "__main__":
    main(EXPERIMENT, __doc__)
