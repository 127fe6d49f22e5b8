"""Conversion of weights to and from Hugging Face LLaMA checkpoints, in NumPy.

Hugging Face stores linear weights as (out, in) and each layer separately; here kernels are
(in, out) and the layers are stacked on a leading axis. Both rotate the pairs (c, c + half of the
head), so columns keep their order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from models.config import LlamaConfig

# Our path -> Hugging Face name; {} is the index of the layer.
HF_NAMES = {
    "embed/embedding": "model.embed_tokens.weight",
    "layers/attention_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/attention/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attention/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attention/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attention/o/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layers/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "norm/scale": "model.norm.weight",
    "lm_head/kernel": "lm_head.weight",
}


def from_hf_state_dict(config: LlamaConfig, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the parameters of `Llama(config)` as nested dicts of arrays, with unchanged dtypes.

    Load them with `nnx.update(model, jax.tree.map(jnp.asarray, params))`. A checkpoint with a tied
    head lacks `lm_head`.

    Raises:
      ValueError: Names every missing, unexpected or mis-shaped entry.
    """
    arrays = {name: np.asarray(array) for name, array in state_dict.items()}
    shapes_only = {path: np.broadcast_to(0, shape) for path, shape in _shapes(config).items()}
    _check(_unstack(shapes_only), arrays)
    flat = {}
    for path, name in HF_NAMES.items():
        layers = [arrays[name.format(i)] for i in range(config.num_layers)]
        flat[path] = _transpose(path, np.stack(layers) if _is_stacked(path) else layers[0])
    return _nest(flat)


def to_hf_state_dict(config: LlamaConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return `params`, nested dicts or `nnx.state(model)`, in the layout of Hugging Face.

    This is the inverse of `from_hf_state_dict`.

    Raises:
      ValueError: Names every missing, unexpected or mis-shaped path.
    """
    arrays = dict(_flatten(params))
    _check({path: np.broadcast_to(0, shape) for path, shape in _shapes(config).items()}, arrays)
    return {name: np.ascontiguousarray(array) for name, array in _unstack(arrays).items()}


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of our parameters."""
    layers, hidden, inner = config.num_layers, config.hidden_size, config.intermediate_size
    kv_width = config.kv_heads * config.head_dim
    return {
        "embed/embedding": (config.vocab_size, hidden),
        "layers/attention_norm/scale": (layers, hidden),
        "layers/attention/q/kernel": (layers, hidden, hidden),
        "layers/attention/k/kernel": (layers, hidden, kv_width),
        "layers/attention/v/kernel": (layers, hidden, kv_width),
        "layers/attention/o/kernel": (layers, hidden, hidden),
        "layers/mlp_norm/scale": (layers, hidden),
        "layers/mlp/gate/kernel": (layers, hidden, inner),
        "layers/mlp/up/kernel": (layers, hidden, inner),
        "layers/mlp/down/kernel": (layers, inner, hidden),
        "norm/scale": (hidden,),
        "lm_head/kernel": (hidden, config.vocab_size),
    }


def _is_stacked(path: str) -> bool:
    return path.startswith("layers/")


def _transpose(path: str, array: np.ndarray) -> np.ndarray:
    """Swap (in, out) and (out, in); norms and the embedding have the same layout in both."""
    return np.swapaxes(array, -1, -2) if path.endswith("/kernel") else array


def _unstack(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each layer under its Hugging Face name and in the layout of Hugging Face."""
    named = {}
    for path, name in HF_NAMES.items():
        transposed = _transpose(path, flat[path])
        for i, layer in enumerate(transposed if _is_stacked(path) else [transposed]):
            named[name.format(i)] = layer
    return named


def _check(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless names and shapes agree, with a line for each that does not."""
    problems = [f"missing: {name}" for name in expected if name not in actual]
    problems += [f"unexpected: {name}" for name in actual if name not in expected]
    problems += [
        f"wrong shape: {name} is {actual[name].shape}, the config needs {expected[name].shape}"
        for name in expected
        if name in actual and actual[name].shape != expected[name].shape
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
