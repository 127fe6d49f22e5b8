"""LLaMA and Qwen2, BERT and RoBERTa in Flax NNX: the models, their configurations, generation,
conversion of weights.

Single-device code that knows nothing of optimizers, meshes or data. Configurations need neither
Flax nor JAX, so the names that do are imported at their first use (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

from models.config import CONFIGS as CONFIGS
from models.config import LlamaConfig as LlamaConfig
from models.encoder_config import ENCODERS as ENCODERS
from models.encoder_config import EncoderConfig as EncoderConfig
from models.parameters import count_parameters as count_parameters

if TYPE_CHECKING:
    from models.convert import from_hf_state_dict as from_hf_state_dict
    from models.convert import left_out as left_out
    from models.convert import to_hf_state_dict as to_hf_state_dict
    from models.encoder import Encoder as Encoder
    from models.generation import generate as generate
    from models.hf_config import from_hf_config as from_hf_config
    from models.hf_config import to_hf_config as to_hf_config
    from models.llama import Llama as Llama

_HOMES = {
    "Encoder": "models.encoder",
    "Llama": "models.llama",
    "from_hf_config": "models.hf_config",
    "from_hf_state_dict": "models.convert",
    "generate": "models.generation",
    "left_out": "models.convert",
    "to_hf_config": "models.hf_config",
    "to_hf_state_dict": "models.convert",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
