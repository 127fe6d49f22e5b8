"""What runs of a size are trained with, and where the numbers come from.

The sizes of a paper have its numbers. Between two sizes a number is a power of the hidden size,
rounded to two digits; beyond the last it stays. Papers differ in batches and data, so these are
starting points.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

from models.config import CONFIGS

TINY = "tiny"  # every optimizer has numbers for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a paper, or a sweep, says of one optimizer.

    Attributes:
      learning_rate: Peak learning rate.
      scale: Factor of the low-rank part; None for the default of the function.
      update_proj_gap: Steps between two subspaces or blocks; None for the default of the function.
      source: Where they come from.
    """

    learning_rate: float
    scale: float | None = None
    update_proj_gap: int | None = None
    source: str


class Defaults(NamedTuple):
    """A recipe without gaps; the interval is None if the optimizer has none."""

    learning_rate: float
    scale: float
    update_proj_gap: int | None
    source: str


def of_size(known: Mapping[str, Defaults], model: str) -> Defaults:
    """Return the defaults for a model, from those of some sizes."""
    if model in known:
        return known[model]
    widths = {size: CONFIGS[size].hidden_size for size in known}
    width = CONFIGS[model].hidden_size
    below = max((size for size in known if widths[size] <= width), key=widths.__getitem__)
    above = min((size for size in known if widths[size] > width), key=widths.__getitem__, default=None)
    if above is None or widths[below] == width:
        return known[below]._replace(source=f"that of {below}")
    first, last = known[below], known[above]
    weight = math.log(width / widths[below]) / math.log(widths[above] / widths[below])
    gap = first.update_proj_gap
    if gap is not None and last.update_proj_gap is not None:
        gap = round(_between(gap, last.update_proj_gap, weight))
    return Defaults(
        _between(first.learning_rate, last.learning_rate, weight),
        _between(first.scale, last.scale, weight),
        gap,
        f"between {below} and {above}",
    )


def _between(first: float, last: float, weight: float) -> float:
    return first if first == last else float(f"{first ** (1 - weight) * last**weight:.1e}")


def _at(sizes: str, recipe: Recipe) -> dict[str, Recipe]:
    return dict.fromkeys(sizes.split(), recipe)


def _tiny(learning_rate: float, source: str) -> dict[str, Recipe]:
    return {TINY: Recipe(learning_rate=learning_rate, source=source)}


_SWEEP = "best of a sweep by factors of 2 at 300 steps"
_BETTER_OF_TWO = "better of 0.003 and 0.01 at 100 steps of 8 windows"
_NOT_TUNED = "GaLore's, not tuned"

# SubTrack++ has no rate for Qwen of its own: Table 7 trains all its rivals alike.
_TABLE_7 = "Table 7 of arXiv 2510.01878"
_GRASS = {
    **_at("60m 130m 350m", Recipe(learning_rate=1e-3, source="the scripts of SubTrack++, from which they come")),
    **_at("1b qwen2-1.5b", Recipe(learning_rate=1e-4, update_proj_gap=100, source=_TABLE_7)),
    "7b": Recipe(learning_rate=1e-4, update_proj_gap=500, source=_TABLE_7),
}
_SUBTRACK_SCRIPTS = "the scripts of SubTrack++ (arXiv 2502.01586)"
_TABLE_14 = "Table 14 of arXiv 2502.01586"
_GALORE = "GaLore's scripts (arXiv 2403.03507)"
_GALORE_SIZES = {
    **_at("60m 130m 350m 1b", Recipe(learning_rate=1e-2, source=_GALORE)),
    "7b": Recipe(learning_rate=5e-3, update_proj_gap=500, source=_GALORE),
}
_FIRA, _APOLLO = "Fira's scripts (arXiv 2410.01623)", "APOLLO's scripts (arXiv 2412.05270)"
_FRUGAL, _SCALE = "FRUGAL's scripts (arXiv 2411.07837)", "SCALE's scripts (arXiv 2506.16659)"
_ADAMW = {
    **_at("60m 130m 350m", Recipe(learning_rate=1e-3, source=_TABLE_14)),
    **_at("1b 7b qwen2-1.5b", Recipe(learning_rate=1e-4, source=_TABLE_7)),
}
_FOAM, _GWT = "FOAM's scripts (arXiv 2512.07112)", "GWT's scripts (arXiv 2501.07237)"
_ALICE = "the paper's, as ports quote it (arXiv 2502.07752)"
_RACS, _SINKGD = "Table 9 of arXiv 2502.07752", "the paper's, as ports quote it (arXiv 2502.06742)"
_ONLINE = "the README of its code (arXiv 2408.12857)"

PRETRAINING: dict[str, dict[str, Recipe]] = {
    "grassjump": _tiny(5e-3, _SWEEP) | _GRASS,
    "grasswalk": _tiny(1e-2, _SWEEP) | _GRASS,
    "subtrack": {
        **_tiny(1e-2, _SWEEP),
        **_at("60m 130m 350m", Recipe(learning_rate=1e-3, source=_SUBTRACK_SCRIPTS)),
        **_at("1b 3b", Recipe(learning_rate=1e-4, source=_SUBTRACK_SCRIPTS)),
        "7b": Recipe(learning_rate=1e-4, update_proj_gap=500, source=_SUBTRACK_SCRIPTS),
        "qwen2-1.5b": Recipe(learning_rate=1e-4, update_proj_gap=100, source=_TABLE_7),
    },
    "subtrack_grad": {
        **_tiny(1e-2, _NOT_TUNED),
        **_at("60m 130m 350m", Recipe(learning_rate=1e-3, source=_TABLE_14)),
        **_at("1b 3b", Recipe(learning_rate=1e-5, source=_TABLE_14)),
    },
    "galore": _tiny(2e-2, _SWEEP) | _GALORE_SIZES,
    "golore": {
        size: dataclasses.replace(recipe, source=_NOT_TUNED)
        for size, recipe in (_tiny(1e-2, "") | _GALORE_SIZES).items()
    },
    "fira": {
        **_tiny(2e-2, _SWEEP),
        **_at("60m 130m 350m", Recipe(learning_rate=1e-2, source=_FIRA)),
        "1b": Recipe(learning_rate=1e-2, scale=0.0625, source=_FIRA),
        "7b": Recipe(learning_rate=5e-3, scale=0.0625, update_proj_gap=500, source=_FIRA),
    },
    "apollo": _tiny(1e-2, _SWEEP) | _at("60m 130m 350m 1b 7b", Recipe(learning_rate=1e-2, source=_APOLLO)),
    "apollo_mini": {
        **_tiny(3e-3, _BETTER_OF_TWO),
        **_at("60m 350m 1b 7b", Recipe(learning_rate=1e-2, source=_APOLLO)),
        "130m": Recipe(learning_rate=1e-2, scale=192.0, source=_APOLLO),
    },
    "ldadam": {
        **_tiny(2e-3, _SWEEP),
        "350m": Recipe(learning_rate=1e-3, source="LDAdam's scripts (arXiv 2410.16103)"),
    },
    "frugal": {
        **_tiny(3e-3, "best of 0.001, 0.003 and 0.01 at 100 steps of 8 windows"),
        **_at("60m 130m 350m 1b", Recipe(learning_rate=1e-3, source=_FRUGAL)),
        "7b": Recipe(learning_rate=5e-4, update_proj_gap=500, source=_FRUGAL),
    },
    "foam": _tiny(2e-2, _SWEEP) | _at("60m 130m 350m 1b", Recipe(learning_rate=1e-2, source=_FOAM)),
    "gwt": _tiny(2.5e-3, _SWEEP) | _at("60m 130m 350m 1b", Recipe(learning_rate=1e-2, source=_GWT)),
    "alice": _tiny(2e-2, _SWEEP) | _at("60m 130m 350m 1b", Recipe(learning_rate=2e-2, source=_ALICE)),
    "badam": {
        **_tiny(1e-3, "Adam's default, not tuned; BAdam is made for fine-tuning"),
        **_at("60m 130m 350m", Recipe(learning_rate=1e-3, source=_TABLE_14)),
        **_at("1b 3b", Recipe(learning_rate=1e-5, source=_TABLE_14)),
    },
    "online_subspace_descent": {
        **_tiny(3e-3, _BETTER_OF_TWO),
        "60m": Recipe(learning_rate=1e-2, scale=0.25, source=_ONLINE),
        "7b": Recipe(learning_rate=5e-3, scale=0.25, update_proj_gap=500, source=_ONLINE),
    },
    "coap": {
        **_tiny(3e-3, _BETTER_OF_TWO),
        "1b": Recipe(learning_rate=1e-2, scale=0.25, update_proj_gap=40, source="COAP's scripts (arXiv 2412.00071)"),
    },
    "sumo": _tiny(1e-2, _NOT_TUNED),
    "column_sgd": {
        **_tiny(1.5e-3, _SWEEP),
        **_at("60m 130m 350m", Recipe(learning_rate=1e-3, source=_SCALE)),
        "1b": Recipe(learning_rate=2e-4, source=_SCALE),
        "7b": Recipe(learning_rate=1e-4, source=_SCALE),
    },
    "racs": {
        **_tiny(3e-2, _SWEEP),
        **_at("60m 130m 350m", Recipe(learning_rate=2e-2, source=_RACS)),
        "1b": Recipe(learning_rate=2e-2, scale=0.02, source=_RACS),
    },
    "sinkgd": {
        **_tiny(3e-2, _SWEEP),
        **_at("60m 130m 350m 1b", Recipe(learning_rate=2e-2, source=_SINKGD)),
    },
    "assemble": {
        size: dataclasses.replace(recipe, source="GrassJump's, which it is without other flags")
        for size, recipe in (_tiny(5e-3, "") | _GRASS).items()
    },
    "adamw": _tiny(3e-3, "best of a sweep by factors of 3 at 300 steps") | _ADAMW,
    "muon": {
        size: dataclasses.replace(recipe, source="AdamW's, as its updates have the size of AdamW's")
        for size, recipe in _ADAMW.items()
    }
    | _tiny(1.2e-2, _SWEEP),
    "lora": _tiny(2e-3, "not tuned; LoRA is made for fine-tuning"),
}

# Of fine-tuning, at a rank of 8. Their rates on GLUE are 1e-5 to 3e-5, by task; the scale is 2 at
# rank 8 and 4 at rank 4.
_GLUE = Recipe(
    learning_rate=3e-5,
    scale=2.0,
    update_proj_gap=500,
    source="GaLore's and SubTrack-Grad's for RoBERTa on GLUE (arXiv 2403.03507, 2502.01586)",
)
FULL_RANK = Recipe(learning_rate=3e-5, source="the rate of full fine-tuning in the same tables, not tuned")
FINETUNING = {
    **_at("grassjump grasswalk subtrack subtrack_grad galore golore fira assemble", _GLUE),
    **_at("racs sinkgd", dataclasses.replace(FULL_RANK, scale=1.0)),
    "badam": Recipe(
        learning_rate=1e-5, update_proj_gap=100, source="BAdam's for RoBERTa on SuperGLUE (arXiv 2404.02827)"
    ),
    "lora": Recipe(learning_rate=5e-4, source="LoRA's for RoBERTa on GLUE (arXiv 2106.09685, Table 9)"),
}
