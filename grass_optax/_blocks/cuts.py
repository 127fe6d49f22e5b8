"""How a tree is divided into blocks: along an axis of every leaf, or by the prefixes of the paths.

Both classes have the same four methods. `indices` (active,) are the numbers of the active blocks; a
window is the leaves of those blocks, stacked.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from grass_optax._trees.paths import leaf_path


@dataclasses.dataclass(frozen=True)
class AlongAxis:
    """Block i is index i along an axis of every leaf.

    Attributes:
      axis: the axis; it may be negative.
    """

    axis: int

    def count(self, tree: PyTree) -> int:
        """The number of blocks, 0 for a tree without leaves; an error if the tree has no blocks."""
        sizes = {leaf_path(path): self._size(path, x) for path, x in jax.tree.leaves_with_path(tree)}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"the leaves differ in size along axis {self.axis}, the axis of the blocks: {sizes}. Give the blocks "
                "as path prefixes, or keep leaves that are not stacked away with optax.partition."
            )
        return next(iter(sizes.values()), 0)

    def take(self, tree: PyTree, indices: jax.Array) -> PyTree:
        """The window of the active blocks."""
        return jax.tree.map(lambda x: jnp.take(x, indices, self.axis, mode="clip"), tree)

    def put(self, tree: PyTree, window: PyTree, indices: jax.Array) -> PyTree:
        """The tree with the active blocks replaced by a window."""

        def replace(x: jax.Array, w: jax.Array) -> jax.Array:
            place = (slice(None),) * (self.axis % x.ndim) + (indices,)
            return x.at[place].set(w.astype(x.dtype), unique_indices=True)

        return jax.tree.map(replace, tree, window)

    def is_active(self, tree: PyTree, indices: jax.Array) -> PyTree:
        """Per leaf a boolean array, broadcastable to it: true in the active blocks."""

        def along_axis(x: jax.Array) -> jax.Array:
            axis = self.axis % x.ndim
            active = jnp.isin(jnp.arange(x.shape[axis], dtype=indices.dtype), indices)
            return active.reshape(-1, *(1,) * (x.ndim - axis - 1))

        return jax.tree.map(along_axis, tree)

    def _size(self, path: Any, x: jax.Array) -> int:
        if not -x.ndim <= self.axis < x.ndim:
            raise ValueError(
                f"leaf {leaf_path(path)!r} of shape {tuple(x.shape)} has no axis {self.axis}, the axis of the blocks. "
                "Keep it away with optax.partition, or give the blocks as path prefixes."
            )
        return int(x.shape[self.axis])


@dataclasses.dataclass(frozen=True)
class ByPrefix:
    """Block i holds the leaves under prefix i.

    The leaves are selected with `select_n`; stacking all blocks would copy them.

    Attributes:
      prefixes: the paths below which the blocks lie, without slashes at their ends.
    """

    prefixes: tuple[str, ...]

    def count(self, tree: PyTree) -> int:
        """The number of blocks, 0 for a tree without leaves; an error if the tree has no blocks."""
        if not jax.tree.leaves(tree):
            return 0
        shapes = [{k: (x.shape, str(x.dtype)) for k, x in block.items()} for block in self._blocks(tree)]
        for prefix, block in zip(self.prefixes, shapes, strict=True):
            if block != shapes[0] or not block:
                raise ValueError(
                    "all blocks must hold leaves of the same names, shapes and types, because they share one state; "
                    f"{self.prefixes[0]!r} holds {shapes[0]}, {prefix!r} holds {block}. Leave blocks that differ out, "
                    "and give them their own transformation with optax.partition."
                )
        return len(self.prefixes)

    def take(self, tree: PyTree, indices: jax.Array) -> PyTree:
        """The window of the active blocks: a dict by the paths below the prefix."""
        if not jax.tree.leaves(tree):
            return tree
        blocks = self._blocks(tree)
        return {k: jnp.stack([lax.select_n(i, *(block[k] for block in blocks)) for i in indices]) for k in blocks[0]}

    def put(self, tree: PyTree, window: PyTree, indices: jax.Array) -> PyTree:
        """The tree with the active blocks replaced by a window."""

        def replace(path: Any, x: jax.Array) -> jax.Array:
            i = self._owner(path)
            for slot, w in zip(indices, window[self._below(path)], strict=True):
                x = jnp.where(slot == i, w.astype(x.dtype), x)
            return x

        return jax.tree.map_with_path(replace, tree)

    def is_active(self, tree: PyTree, indices: jax.Array) -> PyTree:
        """Per leaf a boolean array, broadcastable to it: true in the active blocks."""
        return jax.tree.map_with_path(lambda path, _: jnp.any(indices == self._owner(path)), tree)

    def _blocks(self, tree: PyTree) -> list[dict[str, Any]]:
        """The leaves of each block, by their path below the prefix."""
        blocks: list[dict[str, Any]] = [{} for _ in self.prefixes]
        for path, x in jax.tree.leaves_with_path(tree):
            blocks[self._owner(path)][self._below(path)] = x
        return blocks

    def _below(self, path: Any) -> str:
        return leaf_path(path)[len(self.prefixes[self._owner(path)]) + 1 :]

    def _owner(self, path: Any) -> int:
        owners = [i for i, prefix in enumerate(self.prefixes) if in_block(path, prefix)]
        if len(owners) != 1:
            matching = [self.prefixes[i] for i in owners] or "none"
            raise ValueError(
                f"leaf {leaf_path(path)!r} must be in one block; of the prefixes {list(self.prefixes)} it begins with "
                f"{matching}. Keep leaves that are in no block away with optax.partition, and give no prefix of "
                "another prefix."
            )
        return owners[0]


Cut: TypeAlias = AlongAxis | ByPrefix


def cut_into(blocks: int | Sequence[str]) -> Cut:
    """The division that `blocks`, the argument of `block_coordinate`, names."""
    if isinstance(blocks, Sequence) and not isinstance(blocks, str):
        return ByPrefix(tuple(prefix.strip("/") for prefix in blocks))
    try:
        return AlongAxis(operator.index(blocks))  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(
            f"blocks is {blocks!r}; give the axis along which every leaf stacks the blocks, a Python integer (under "
            "optax.inject_hyperparams name it in static_args), or a list of path prefixes."
        ) from error


def in_block(path: Any, prefix: str) -> bool:
    """Whether the path of a leaf begins with a prefix, by whole parts: "layers/1" is not in
    "layers/10".
    """
    return f"{leaf_path(path)}/".startswith(f"{prefix.strip('/')}/")
