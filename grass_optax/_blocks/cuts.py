"""How a tree is cut into blocks: along an axis of every leaf, or by the prefixes of their paths.

Members: Blocks, cut_into, along_axis, by_prefix, in_block.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from grass_optax._trees.paths import leaf_path


class Blocks(NamedTuple):
    """How a tree is cut into blocks. `indices` (active,) are the blocks of a window, a window their
    leaves, stacked.
    """

    count: Callable[[Any], int]  # tree -> number of blocks, 0 for a tree without leaves; an error if it has no blocks
    take: Callable[[Any, jax.Array], Any]  # tree, indices -> window
    put: Callable[[Any, Any, jax.Array], Any]  # tree, window, indices -> tree with the window in its place


def cut_into(blocks: int | Sequence[str]) -> Blocks:
    """The `Blocks` that the argument `blocks` of `block_coordinate` names: an axis, or path
    prefixes.
    """
    if isinstance(blocks, Sequence) and not isinstance(blocks, str):
        return by_prefix(blocks)
    try:
        return along_axis(operator.index(blocks))  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(
            f"blocks is {blocks!r}; give the axis along which every leaf stacks the blocks, a Python integer (under "
            "optax.inject_hyperparams name it in static_args), or a list of path prefixes."
        ) from error


def along_axis(axis: int) -> Blocks:
    """Block i is index i along an axis of every leaf."""

    def count(tree: Any) -> int:
        sizes = {leaf_path(path): _size(path, x, axis) for path, x in jax.tree.leaves_with_path(tree)}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"the leaves differ in size along axis {axis}, the axis of the blocks: {sizes}. Give the blocks as "
                "path prefixes, or keep leaves that are not stacked away with optax.partition."
            )
        return next(iter(sizes.values()), 0)

    def take(tree: Any, indices: jax.Array) -> Any:
        return jax.tree.map(lambda x: jnp.take(x, indices, axis, mode="clip"), tree)

    def put(tree: Any, window: Any, indices: jax.Array) -> Any:
        def replace(x: jax.Array, w: jax.Array) -> jax.Array:
            return x.at[(slice(None),) * (axis % x.ndim) + (indices,)].set(w.astype(x.dtype), unique_indices=True)

        return jax.tree.map(replace, tree, window)

    return Blocks(count, take, put)


def by_prefix(prefixes: Sequence[str]) -> Blocks:
    """Block i is all leaves whose path begins with prefix i; they are selected, as stacking them
    would copy all.
    """
    prefixes = [prefix.strip("/") for prefix in prefixes]

    def named(tree: Any) -> list[dict[str, Any]]:
        """For each block its leaves, by their path below the prefix."""
        blocks: list[dict[str, Any]] = [{} for _ in prefixes]
        for path, x in jax.tree.leaves_with_path(tree):
            i = _owner(path, prefixes)
            blocks[i][_below(path, prefixes[i])] = x
        return blocks

    def count(tree: Any) -> int:
        if not jax.tree.leaves(tree):
            return 0
        _require_alike(prefixes, [{k: (x.shape, str(x.dtype)) for k, x in block.items()} for block in named(tree)])
        return len(prefixes)

    def take(tree: Any, indices: jax.Array) -> Any:
        if not jax.tree.leaves(tree):
            return tree
        blocks = named(tree)
        return {k: jnp.stack([lax.select_n(i, *(block[k] for block in blocks)) for i in indices]) for k in blocks[0]}

    def put(tree: Any, window: Any, indices: jax.Array) -> Any:
        def replace(path: Any, x: jax.Array) -> jax.Array:
            i = _owner(path, prefixes)
            for slot, w in zip(indices, window[_below(path, prefixes[i])], strict=True):
                x = jnp.where(slot == i, w.astype(x.dtype), x)
            return x

        return jax.tree.map_with_path(replace, tree)

    return Blocks(count, take, put)


def in_block(path: Any, prefix: str) -> bool:
    """Whether the path of a leaf begins with a prefix, by whole parts: "layers/1" is not in
    "layers/10".
    """
    return f"{leaf_path(path)}/".startswith(f"{prefix.strip('/')}/")


def _below(path: Any, prefix: str) -> str:
    return leaf_path(path)[len(prefix) + 1 :]


def _owner(path: Any, prefixes: Sequence[str]) -> int:
    owners = [i for i, prefix in enumerate(prefixes) if in_block(path, prefix)]
    if len(owners) != 1:
        found = [prefixes[i] for i in owners] or "none"
        raise ValueError(
            f"leaf {leaf_path(path)!r} must be in one block; of the prefixes {prefixes} it begins with {found}. Keep "
            "leaves that are in no block away with optax.partition, and give no prefix of another prefix."
        )
    return owners[0]


def _size(path: Any, x: Any, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"leaf {leaf_path(path)!r} of shape {tuple(x.shape)} has no axis {axis}, the axis of the blocks. Keep it "
            "away with optax.partition, or give the blocks as path prefixes."
        )
    return int(x.shape[axis])


def _require_alike(prefixes: Sequence[str], blocks: Sequence[dict[str, Any]]) -> None:
    for prefix, block in zip(prefixes, blocks, strict=True):
        if block != blocks[0] or not block:
            raise ValueError(
                f"all blocks must hold leaves of the same names, shapes and types, because they share one state; "
                f"{prefixes[0]!r} holds {blocks[0]}, {prefix!r} holds {block}. Leave blocks that differ out, and give "
                "them their own transformation with optax.partition."
            )
