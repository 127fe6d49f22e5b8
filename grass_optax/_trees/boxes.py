"""Boxes: nodes in which Flax keeps one array of a tree and what it says about it.

An `nnx.Variable` and Linen's `Partitioned` hold an array under the attribute `value`, and beside it
metadata, such as how the array is sharded. `jax.tree.map` copies both. So a state that is made of
params by a map says of a scalar norm, or of moments (..., r, n), that it is sharded as a parameter.
An array that has not the shape of its parameter is therefore kept without a box.
"""

from typing import Any

import jax
import optax
from jaxtyping import PyTree

_CONTENT = [(jax.tree_util.GetAttrKey("value"),)]  # the paths of the children of a box


def unboxed(tree: PyTree) -> PyTree:
    """The tree with the content of every box instead of the box; its leaves are the same."""

    def content(x: Any) -> Any:
        return unboxed(_children(x)[0][1]) if _is_box(x) else x

    return jax.tree.map(content, tree, is_leaf=_is_box)


def boxed_like(tree: PyTree, like: PyTree) -> PyTree:
    """An unboxed tree in the boxes of another one.

    The two are alike, except that `like` has boxes, and the tree may have nodes instead of leaves.
    """

    def boxed(box: Any, x: Any) -> Any:
        if not _is_box(box):
            return x
        structure: Any = jax.tree.structure(box, is_leaf=lambda child: child is not box)
        return structure.unflatten([boxed_like(x, _children(box)[0][1])])

    return jax.tree.map(boxed, like, tree, is_leaf=_is_box)


def without_boxes(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The same transformation, which never sees a box, and whose state has none. Its updates are in
    the boxes of the gradients.
    """

    def init(params: optax.Params) -> optax.OptState:
        return tx.init(unboxed(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        plain, state = tx.update(unboxed(updates), state, unboxed(params), **extra_args)
        return boxed_like(plain, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _is_box(x: Any) -> bool:
    return [path for path, _ in _children(x)] == _CONTENT


def _children(x: Any) -> list[tuple[Any, Any]]:
    return jax.tree.leaves_with_path(x, is_leaf=lambda child: child is not x)
