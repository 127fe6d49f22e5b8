"""The config.json of Hugging Face as a `LlamaConfig`, and back.

Every setting is used, known to change no number, or refused by its name: a checkpoint that computes
something else must not load in silence.
"""

from collections.abc import Mapping
from typing import Any

from models.config import LlamaConfig, RopeScaling

MODEL_TYPES = ("llama", "qwen2")

# Settings that change no logits and no gradients.
_NEUTRAL = frozenset({
    "_name_or_path", "architectures", "auto_map", "bos_token_id", "eos_token_id", "id2label",
    "label2id", "layer_types", "max_position_embeddings", "max_window_layers", "model_type",
    "pad_token_id", "pretraining_tp", "sliding_window", "transformers_version", "unsloth_version",
    "use_cache", "use_mrope",
})  # fmt: skip
# Settings with the one value that the model here computes.
_FIXED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "use_sliding_window": False,
}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
}
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_READ = frozenset({
    *_SIZES, *_ROPE, "dtype", "head_dim", "initializer_range", "num_key_value_heads", "rms_norm_eps",
    "tie_word_embeddings", "torch_dtype",
})  # fmt: skip
_LLAMA3 = {
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_positions",
}


def from_hf_config(settings: Mapping[str, Any]) -> LlamaConfig:
    """Return the configuration that a config.json describes; products are in float32.

    Raises:
      ValueError: Names a setting that is missing, or that this model does not compute.
    """
    kind = settings.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(f"model_type is {kind!r}, but only {' and '.join(MODEL_TYPES)} can be read.")
    _refuse_others(settings)
    if missing := [name for name in (*_SIZES, "rms_norm_eps") if settings.get(name) is None]:
        raise ValueError(f"the settings {', '.join(missing)} are missing: complete the config.json.")
    theta, scaling = _rope(settings)
    kv_heads = settings.get("num_key_value_heads")
    config = LlamaConfig(
        **{ours: settings[theirs] for theirs, ours in _SIZES.items()},
        num_kv_heads=None if kv_heads == settings["num_attention_heads"] else kv_heads,
        rms_norm_eps=settings["rms_norm_eps"],
        init_std=settings.get("initializer_range", LlamaConfig.init_std),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=kind == "qwen2",
        tied_head=settings.get("tie_word_embeddings", False),
        param_dtype=settings.get("dtype") or settings.get("torch_dtype") or LlamaConfig.param_dtype,
    )
    if settings.get("head_dim") not in (None, config.head_dim):
        raise ValueError(
            f"head_dim is {settings['head_dim']}, but heads here have hidden_size / num_attention_heads = "
            f"{config.head_dim} features."
        )
    return config


def to_hf_config(config: LlamaConfig, max_positions: int) -> dict[str, Any]:
    """Return the config.json of a model, as Transformers reads it.

    Args:
      config: The configuration.
      max_positions: The longest text that the model was trained on.
    """
    kind = "qwen2" if config.qkv_bias else "llama"
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {theirs: getattr(scaling, ours) for theirs, ours in _LLAMA3.items()}
    return {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[kind]],
        "model_type": kind,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "silu",
        "initializer_range": config.init_std,
        "max_position_embeddings": max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,  # Transformers 4 reads these two
        "rope_scaling": {name: value for name, value in rope.items() if name != "rope_theta"} if scaling else None,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": config.param_dtype,
    }


def _refuse_others(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name in _FIXED:
            if value not in (None, _FIXED[name]):
                raise ValueError(f"{name} is {value!r}, but the model here computes {_FIXED[name]!r} only.")
        elif name not in _READ | _NEUTRAL and value not in (None, False):
            raise ValueError(f"the setting {name}, {value!r}, is not known here, so its effect would be lost.")


def _rope(settings: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """The base of the rotations and their scaling, in the form of Transformers 4 or 5."""
    given = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    theta = given.get("rope_theta", settings.get("rope_theta", 1e4))
    kind = given.get("rope_type", given.get("type", "default"))
    known = {"rope_theta", "rope_type", "type", "factor", *(_LLAMA3 if kind == "llama3" else ())}
    if unknown := sorted(name for name, value in given.items() if name not in known and value is not None):
        raise ValueError(f"the settings {', '.join(unknown)} of rope scaling {kind!r} are not known here.")
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise ValueError(f"rope scaling {kind!r} is not known here: default, linear and llama3 are.")
    needed = ("factor", *(_LLAMA3 if kind == "llama3" else ()))
    if missing := [name for name in needed if given.get(name) is None]:
        raise ValueError(f"the settings {', '.join(missing)} of rope scaling {kind!r} are missing.")
    of_llama3 = {ours: given[theirs] for theirs, ours in _LLAMA3.items()} if kind == "llama3" else {}
    return theta, RopeScaling(kind=kind, factor=given["factor"], **of_llama3)
