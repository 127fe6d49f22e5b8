"""The settings of LLaMA and Qwen2 in a config.json of Hugging Face."""

import math
from collections.abc import Mapping
from typing import Any

from models.config import LlamaConfig, RopeScaling
from models.hf_settings import SIZES, Settings

_SETTINGS = Settings(
    needed=SIZES | {"rms_norm_eps": "rms_norm_eps"},
    used=frozenset(
        {"head_dim", "layer_types", "num_key_value_heads", "rope_parameters", "rope_scaling", "rope_theta"}
        | {"tie_word_embeddings"}
    ),
    fixed={
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "is_causal": True,
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "use_sliding_window": False,
    },
    neutral=frozenset({
        "is_llama_config", "max_position_embeddings", "max_sequence_length", "max_window_layers", "pad_token_id",
        "pretraining_tp", "sliding_window", "use_mrope",
    }),
)  # fmt: skip
_FULL = "full_attention"
_LLAMA3 = {
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_positions",
}


def read(settings: Mapping[str, Any]) -> LlamaConfig:
    """Return the configuration of a LLaMA or Qwen2."""
    fields = _SETTINGS.fields(settings)
    if others := {*(settings.get("layer_types") or ())} - {_FULL}:
        raise ValueError(f"layer_types has {', '.join(sorted(map(str, others)))}, but {_FULL} only is known here.")
    if not isinstance(tied := settings.get("tie_word_embeddings") or False, bool):
        raise ValueError(f"tie_word_embeddings is {tied!r}, but must be true or false.")
    theta, scaling = _rope(settings)
    kv_heads = settings.get("num_key_value_heads")
    config = LlamaConfig(
        **fields,
        num_kv_heads=None if kv_heads == settings["num_attention_heads"] else kv_heads,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=settings["model_type"] == "qwen2",
        tied_head=tied,
    )
    if settings.get("head_dim") not in (None, config.head_dim):
        raise ValueError(
            f"head_dim is {settings['head_dim']}, but heads here have hidden_size / num_attention_heads = "
            f"{config.head_dim} features."
        )
    return config


def written(config: LlamaConfig, max_positions: int) -> dict[str, Any]:
    """Return the settings of a LLaMA, or of a Qwen2 if it has biases."""
    kind = "qwen2" if config.qkv_bias else "llama"
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {theirs: getattr(scaling, ours) for theirs, ours in _LLAMA3.items()}
    return {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[kind]],
        "model_type": kind,
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
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


def _rope(settings: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """The base of the rotations and their scaling, in the form of Transformers 4 or 5."""
    new, old = (_object(settings, name) for name in ("rope_parameters", "rope_scaling"))
    given = new or old
    theta = given.get("rope_theta", settings.get("rope_theta", 1e4))
    if not isinstance(theta, int | float) or not 0 < theta < math.inf:
        raise ValueError(f"rope_theta is {theta!r}, but must be a positive number.")
    kind = _kind(given)
    if new and old and _as_new(old, theta) != _as_new(new, theta):
        raise ValueError(f"rope_parameters is {new!r} and rope_scaling {old!r}: give one of them.")
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


def _object(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A setting that is an object, empty if it is missing."""
    value = settings.get(name)
    if not isinstance(value, Mapping | None):
        raise ValueError(f"{name} is {value!r}, but must be an object.")
    return value or {}


def _as_new(given: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """The settings of rotations in the form of Transformers 5."""
    named = {"rope_theta": theta, **given, "rope_type": _kind(given)}
    return {name: value for name, value in named.items() if name != "type" and value is not None}


def _kind(given: Mapping[str, Any]) -> Any:
    return given.get("rope_type", given.get("type", "default"))
