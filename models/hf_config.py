"""The config.json of Hugging Face as a configuration of a model here, and back.

Every setting is used, known to change no number, or refused by its name: a checkpoint that computes
something else must not load in silence. Each architecture has a file with its settings.
"""

from collections.abc import Callable, Mapping
from typing import Any

from models import hf_encoder, hf_llama
from models.config import LlamaConfig
from models.encoder_config import EncoderConfig

_READ: dict[str, Callable[[Mapping[str, Any]], LlamaConfig | EncoderConfig]] = {
    "llama": hf_llama.read,
    "qwen2": hf_llama.read,
    "bert": hf_encoder.read,
    "roberta": hf_encoder.read,
}


def from_hf_config(settings: Mapping[str, Any]) -> LlamaConfig | EncoderConfig:
    """Return the configuration that a config.json describes; products are in float32.

    An encoder has a head if its `architectures` are those of sequence classification. Its dropout
    probabilities are settings of training, which are not used here.

    Raises:
      ValueError: Names a setting that is missing, or that the model does not compute.
    """
    kind = settings.get("model_type")
    if kind not in _READ:
        *others, last = _READ
        raise ValueError(f"model_type is {kind!r}, but only {', '.join(others)} and {last} can be read.")
    return _READ[kind](settings)


def to_hf_config(config: LlamaConfig | EncoderConfig, max_positions: int | None = None) -> dict[str, Any]:
    """Return the config.json of a model, as Transformers reads it.

    Args:
      config: The configuration.
      max_positions: The longest text that a decoder was trained on. An encoder has it in its
        configuration.

    Raises:
      ValueError: If `max_positions` is missing, or is not that of the configuration.
    """
    if isinstance(config, EncoderConfig):
        if max_positions not in (None, config.max_positions):
            raise ValueError(f"max_positions is {max_positions}, but the config has {config.max_positions}: omit it.")
        return hf_encoder.written(config)
    if max_positions is None:
        raise ValueError("max_positions is missing: give the length of the longest text that the model was trained on.")
    return hf_llama.written(config, max_positions)
