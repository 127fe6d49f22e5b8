"""What the path of a leaf says: its name, and whether it is an embedding or an output head."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Path = Sequence[Any]  # the keys that JAX gives beside a leaf

# Parts of a path that name an embedding, beside all that contain "embed", or an output head.
_EMBEDDINGS = frozenset({"wte", "wpe"})
_HEADS = frozenset({"head", "lm_head", "output_head", "logits", "logits_dense"})


def leaf_path(path: Path) -> str:
    """The path of a leaf as "a/b/c".

    The leaves of an nnx.State sit one attribute deeper; they get the paths of plain dicts.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def is_embedding(path: Path) -> bool:
    """Whether a part of the path contains "embed", or is "wte" or "wpe" (in any case)."""
    return any("embed" in part or part in _EMBEDDINGS for part in _parts(path))


def is_head(path: Path) -> bool:
    """Whether a part of the path names an output head: see `layouts.split_labels`."""
    return any(part in _HEADS for part in _parts(path))


def require_float(path: Path, x: Any) -> None:
    """Raise a TypeError if a leaf is not floating point."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{describe(path, x)} is not floating point and has no gradient. Hide it from the "
            "optimizer with optax.masked."
        )


def describe(path: Path, x: Any) -> str:
    """A leaf in an error: its path, shape and type."""
    return f"leaf {leaf_path(path)!r} of shape {tuple(x.shape)} and type {x.dtype}"


def _parts(path: Path) -> list[str]:
    return leaf_path(path).lower().split("/")
