"""Weights to and from the names and the layout of Hugging Face LLaMA checkpoints, in NumPy.

There every linear weight is (out, in) and every layer has entries of its own; here kernels are
(in, out) and the layers are stacked on a leading axis. Both rotate the pairs (c, c + half of the
head), so no column moves.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from models.config import LlamaConfig

# Our path -> their name; the braces stand for the index of the layer.
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
    """Return the parameters of `Llama(config)` as nested dicts of arrays, in the dtypes given.

    Load them with `nnx.update(model, jax.tree.map(jnp.asarray, params))`. Raises ValueError naming
    every missing, unexpected or mis-shaped entry; a checkpoint with a tied head lacks its lm_head.
    """
    given = {name: np.asarray(array) for name, array in state_dict.items()}
    shapes_only = {path: np.broadcast_to(0, shape) for path, shape in _shapes(config).items()}
    _check(_unstack(shapes_only), given)
    flat = {}
    for path, name in HF_NAMES.items():
        layers = [given[name.format(i)] for i in range(config.num_layers)]
        flat[path] = _transpose(path, np.stack(layers) if _is_stacked(path) else layers[0])
    return _nest(flat)


def to_hf_state_dict(config: LlamaConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return `params`, nested dicts or `nnx.state(model)`, in their layout: the inverse map.

    Raises ValueError naming every missing, unexpected or mis-shaped path.
    """
    given = dict(_flatten(params))
    _check({path: np.broadcast_to(0, shape) for path, shape in _shapes(config).items()}, given)
    return {name: np.ascontiguousarray(array) for name, array in _unstack(given).items()}


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
    """Swap (in, out) and (out, in); norms and the embedding, (V, D) on both sides, stay."""
    return np.swapaxes(array, -1, -2) if path.endswith("/kernel") else array


def _unstack(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give each layer of each path its own name, in the layout of the other side."""
    named = {}
    for path, name in HF_NAMES.items():
        turned = _transpose(path, flat[path])
        for i, layer in enumerate(turned if _is_stacked(path) else [turned]):
            named[name.format(i)] = layer
    return named


def _check(expected: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless names and shapes agree; one line for each that does not."""
    problems = [f"missing: {name}" for name in expected if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in expected]
    problems += [
        f"wrong shape: {name} is {given[name].shape}, the config needs {expected[name].shape}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
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
