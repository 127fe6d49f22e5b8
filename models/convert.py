"""Conversion of weights to and from Hugging Face's LLaMA and Qwen2 checkpoints, in NumPy.

Hugging Face stores linear weights as (out, in) and each layer separately; here kernels are
(in, out) and the layers are stacked on a leading axis. Both rotate the pairs (c, c + half of the
head), so columns keep their order.

Arrays are read one at a time, so a mapping that loads them when asked needs the memory of the
result and of one array.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from models.config import LlamaConfig

# Our path -> Hugging Face name; {} is the index of the layer.
_NAMES = {
    "embed/embedding": "model.embed_tokens.weight",
    "layers/attention_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/attention/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attention/q/bias": "model.layers.{}.self_attn.q_proj.bias",
    "layers/attention/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attention/k/bias": "model.layers.{}.self_attn.k_proj.bias",
    "layers/attention/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attention/v/bias": "model.layers.{}.self_attn.v_proj.bias",
    "layers/attention/o/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layers/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "norm/scale": "model.norm.weight",
    "lm_head/kernel": "lm_head.weight",
}


# Buffers of older checkpoints that follow from the configuration.
_DERIVED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")


def from_hf_state_dict(config: LlamaConfig, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the parameters of `Llama(config)` as nested dicts of arrays, with unchanged dtypes.

    Load them with `nnx.update(model, jax.tree.map(jnp.asarray, params))`. Derived buffers, such as
    `rotary_emb.inv_freq`, are left out, and so is the head of a checkpoint whose head is tied.

    Raises:
      ValueError: Names every missing, unexpected or mis-shaped entry, or one of another type than
        those of the layers before it.
    """
    shapes = _shapes(config)
    expected = {name: shape for path in shapes for name, shape in _hf_shapes(path, shapes[path]).items()}
    ignored = {name for name in state_dict if _DERIVED.fullmatch(name)}
    ignored |= {_NAMES["lm_head/kernel"]} if config.tied_head else set()
    _check(expected, {name: _shape(state_dict, name) for name in state_dict if name not in ignored})
    return _nest({path: _from_hf(path, shape, state_dict) for path, shape in shapes.items()})


def to_hf_state_dict(config: LlamaConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return `params`, nested dicts or `nnx.state(model)`, in the layout of Hugging Face.

    This is the inverse of `from_hf_state_dict`. The arrays are views of those of `params`, so that
    nothing is copied: they are transposed when they are read.

    Raises:
      ValueError: Names every missing, unexpected or mis-shaped path.
    """
    arrays = dict(_flatten(params))
    _check(_shapes(config), {path: array.shape for path, array in arrays.items()})
    named = {}
    for path in _shapes(config):
        transposed = _transpose(path, arrays[path])
        for i, layer in enumerate(transposed if _is_stacked(path) else [transposed]):
            named[_NAMES[path].format(i)] = layer
    return named


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of our parameters, in the order of `_NAMES`."""
    layers, hidden, inner = config.num_layers, config.hidden_size, config.intermediate_size
    kv_width = config.kv_heads * config.head_dim
    shapes = {
        "embed/embedding": (config.vocab_size, hidden),
        "layers/attention_norm/scale": (layers, hidden),
        "layers/attention/q/kernel": (layers, hidden, hidden),
        "layers/attention/q/bias": (layers, hidden),
        "layers/attention/k/kernel": (layers, hidden, kv_width),
        "layers/attention/k/bias": (layers, kv_width),
        "layers/attention/v/kernel": (layers, hidden, kv_width),
        "layers/attention/v/bias": (layers, kv_width),
        "layers/attention/o/kernel": (layers, hidden, hidden),
        "layers/mlp_norm/scale": (layers, hidden),
        "layers/mlp/gate/kernel": (layers, hidden, inner),
        "layers/mlp/up/kernel": (layers, hidden, inner),
        "layers/mlp/down/kernel": (layers, inner, hidden),
        "norm/scale": (hidden,),
        "lm_head/kernel": (hidden, config.vocab_size),
    }
    absent = [path for path in shapes if path.endswith("/bias") and not config.qkv_bias]
    absent += ["lm_head/kernel"] if config.tied_head else []
    return {path: shape for path, shape in shapes.items() if path not in absent}


def _hf_shapes(path: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The Hugging Face names of a parameter, one for each layer, with their shapes."""
    count, of_one = (shape[0], shape[1:]) if _is_stacked(path) else (1, shape)
    return {_NAMES[path].format(i): of_one[::-1] if path.endswith("/kernel") else of_one for i in range(count)}


def _from_hf(path: str, shape: tuple[int, ...], state_dict: Mapping[str, np.ndarray]) -> np.ndarray:
    """Read a parameter, layer by layer, into an array of ours."""
    if not _is_stacked(path):
        return _transpose(path, np.asarray(state_dict[_NAMES[path]]))
    result: np.ndarray | None = None
    for i in range(shape[0]):
        layer = _transpose(path, np.asarray(state_dict[_NAMES[path].format(i)]))
        result = np.empty(shape, layer.dtype) if result is None else result
        if layer.dtype != result.dtype:
            raise ValueError(
                f"{_NAMES[path].format(i)} is {layer.dtype}, but the layers before it are {result.dtype}; layers are "
                "one array here. Save the checkpoint in one type."
            )
        result[i] = layer
    assert result is not None  # a config has a layer
    return result


def _shape(state_dict: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    """The shape of an entry, without reading it where that is possible."""
    shape_of = getattr(state_dict, "shape_of", None)
    return tuple(np.shape(state_dict[name]) if shape_of is None else shape_of(name))


def _is_stacked(path: str) -> bool:
    return path.startswith("layers/")


def _transpose(path: str, array: np.ndarray) -> np.ndarray:
    """Swap (in, out) and (out, in); norms and the embedding have the same layout in both."""
    return np.swapaxes(array, -1, -2) if path.endswith("/kernel") else array


def _check(expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless names and shapes agree, with a line for each that does not."""
    problems = [f"missing: {name}" for name in expected if name not in actual]
    problems += [f"unexpected: {name}" for name in actual if name not in expected]
    problems += [
        f"wrong shape: {name} is {actual[name]}, the config needs {expected[name]}"
        for name in expected
        if name in actual and actual[name] != expected[name]
    ]
    if problems:
        raise ValueError("the weights do not fit the config:\n" + "\n".join(problems))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return tree
