"""The configuration of an export."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Export a model to a folder that Transformers loads.

    The weights are read from a checkpoint of a run or of an import, without the optimizer's state.
    """

    run_dir: Path
    """Folder of a run or of an import."""
    out: Path
    """New folder in the format of Hugging Face. It appears when everything is written."""
    step: int | None = None
    """Updates of the checkpoint; the newest by default."""
    verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Load the folder with Transformers, and compare logits and tokens before it appears."""
