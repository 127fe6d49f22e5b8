"""The configuration of an import."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Import a LLaMA, Qwen2, BERT or RoBERTa from a folder of Hugging Face.

    The folder has config.json, tokenizer.json and weights in safetensors. Weights keep their type.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Folder in the format of Hugging Face."""
    out: Path
    """New folder for the model. It appears when everything is written."""
