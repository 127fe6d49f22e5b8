"""What the path of a leaf says: its name, and whether it is an embedding or an output head."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Path = Sequence[Any]  # the keys that JAX gives beside a leaf

# Parts of a path that name an embedding, beside all that contain "embed" or end in "_emb", or an
# output head. Further in, "out" is the last matrix of an attention.
_EMBEDDINGS = frozenset({"emb", "wte", "wpe"})
_HEADS = frozenset({"head", "lm_head", "output_head", "logits", "logits_dense"})
_FIRST_OF_A_HEAD = frozenset({"out", "output"})


def leaf_path(path: Path) -> str:
    """The path of a leaf as "a/b/c".

    The leaves of an nnx.State sit one attribute deeper; they get the paths of plain dicts.

    Args:
      path: the keys that `jax.tree.leaves_with_path` gives beside a leaf.

    Returns:
      A string.

    Examples:
      >>> tree = {"layers": [{"kernel": 1.0}]}
      >>> [layouts.leaf_path(path) for path, _ in jax.tree.leaves_with_path(tree)]
      ['layers/0/kernel']
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def is_embedding(path: Path) -> bool:
    """Whether a leaf is an embedding by its path.

    It is if a part of the path contains "embed", ends in "_emb", or is "emb", "wte" or "wpe" (in
    any case).

    Args:
      path: the keys that `jax.tree.leaves_with_path` gives beside a leaf.

    Returns:
      A bool.

    Examples:
      >>> tree = {"kernel": 1.0, "token_embed": 1.0}
      >>> [layouts.is_embedding(path) for path, _ in jax.tree.leaves_with_path(tree)]
      [False, True]
    """
    return any("embed" in part or part.endswith("_emb") or part in _EMBEDDINGS for part in _parts(path))


def is_head(path: Path) -> bool:
    """Whether a leaf is an output head by its path.

    `layouts.split_labels` lists the names.

    Args:
      path: the keys that `jax.tree.leaves_with_path` gives beside a leaf.

    Returns:
      A bool.

    Examples:
      >>> tree = {"kernel": 1.0, "lm_head": 1.0}
      >>> [layouts.is_head(path) for path, _ in jax.tree.leaves_with_path(tree)]
      [False, True]
    """
    parts = _parts(path)
    return bool(parts) and (parts[0] in _FIRST_OF_A_HEAD or any(part in _HEADS for part in parts))


def is_function(x: Any) -> bool:
    """Whether x is to be called with the params. A tree can be callable, too: an Equinox module."""
    return callable(x) and jax.tree_util.treedef_is_leaf(jax.tree.structure(x))


def require_float(path: Path, x: Any) -> None:
    """Raise an error if a leaf is not floating point.

    Args:
      path: the keys that `jax.tree.leaves_with_path` gives beside a leaf.
      x: the leaf.

    Raises:
      TypeError: it is not.

    Examples:
      >>> try:
      ...     jax.tree.map_with_path(layouts.require_float, {"step": jnp.zeros((), jnp.int32)})
      ... except TypeError as error:
      ...     print(str(error).split(" and has")[0])
      leaf 'step' of shape () and type int32 is not floating point
    """
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        raise TypeError(
            f"{describe(path, x)} is not floating point and has no gradient. Hide it from the "
            "optimizer with optax.masked."
        )


def describe(path: Path, x: Any) -> str:
    """A leaf in an error: its path, shape and type."""
    return f"leaf {leaf_path(path)!r} of shape {jnp.shape(x)} and type {jnp.result_type(x)}"


def _parts(path: Path) -> list[str]:
    return leaf_path(path).lower().split("/")
