"""Where every array of an optimizer's state lies on a mesh, given where the parameters lie.

A state array is sharded by what its axes mean. For a parameter P(a, b) whose m axis is sharded by a
and whose n axis by b::

  basis and rule state  (..., m, r)  P(a, None); signs and places (..., m) P(a)
  moments               (..., r, n)  P(None, (b, a)): the axes of m too, as far as they divide n;
                                     an axis of m that divides r and not n shards r, P(a, b)
  dense residuals       (..., m, n)  P(a, b)
  norms of matrices     (...)        replicated, except for the batch axes

If the basis has several blocks, the leading axes of a whose product divides their number shard the
blocks (..., number, m/number, r/number) along the first axis, and the moments along r: a device has
the rows of its blocks and their moments, and S^T G needs no sum over these axes.

Every array keeps the batch axes. So S^T G is a sum over a, scattered over n or r, and no (m, n) or
(m, r) array is ever gathered. `SplitState.layout` says which axis is m, because a transformation is
opaque and a square leaf ambiguous. If a side has several axes, such as heads and head size, it
keeps the mesh axes of the first, unless another one is sharded: a reshape can keep no more.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from grass_optax._blocks.turns import BlockCoordinateState
from grass_optax._inner.int8 import codes_of
from grass_optax._split.records import SplitState
from grass_optax._trees.boxes import boxed_like, unboxed
from grass_optax._trees.matrix_layout import MatrixLayout, is_layout
from grass_optax._trees.paths import leaf_path
from grass_optax.state.owners import owners_of, parts_of

Names = tuple[str, ...]  # the mesh axes that shard one axis of an array, the major one first
Path = tuple[Any, ...]


class _Leaf(NamedTuple):
    """A parameter on its mesh."""

    shape: tuple[int, ...]
    names: tuple[Names, ...]  # of each axis
    sharding: NamedSharding

    def placed(self, names: tuple[Names, ...]) -> NamedSharding:
        """A sharding on the mesh of this leaf."""
        return _sharding(self.sharding, names)


class _Sides(NamedTuple):
    """The mesh axes of a matrix (..., m, n)."""

    batch: tuple[Names, ...]
    m: Names
    n: Names
    of_blocks: Names  # the leading ones of m whose product divides the number of blocks
    moments: Names  # of the n axis of moments
    rest: Names  # what remains: axes of m, for the r axis


def state_shardings(tx: optax.GradientTransformation, params: optax.Params, param_shardings: Any) -> Any:
    """Return the sharding of each array of `tx.init(params)`, for `out_shardings` and `device_put`.

    For a split leaf P(a, b) the basis is P(a, None) and the moments P(None, (b, a)); P(a, b) where
    a divides the number of blocks, or r and not n, and P(None, b) where it divides neither. Batch
    axes keep their sharding. An array with the shape of its parameter has the parameter's sharding,
    and an unknown array is replicated. Without these shardings `tx.init` places the state on a
    single device, and the first update reshards it and triggers a recompilation.

    Args:
      tx: any Optax transformation; every state of this library is known.
      params: arrays or `jax.ShapeDtypeStruct`s.
      param_shardings: a tree like params, or a prefix of it, of `NamedSharding`s.

    Returns:
      A tree like `tx.init(params)` of `NamedSharding`s.

    Raises:
      ValueError: the shardings do not fit the params.
      TypeError: a sharding is not a `NamedSharding`.

    Examples:
      >>> mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> params = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32)}
      >>> sharding = jax.sharding.NamedSharding(mesh, jax.P("fsdp", None))
      >>> tx = grass_optax.scale_by_grassjump(rank=2)
      >>> shardings = grass_optax.state_shardings(tx, params, sharding)
      >>> tuple(optax.tree_utils.tree_get(shardings, "basis")["w"].spec)
      ('fsdp',)
    """
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
    boxed_state = jax.eval_shape(tx.init, params)
    params, param_shardings = codes_of(params), codes_of(param_shardings)
    leaves = _leaves(unboxed(params), unboxed(param_shardings))
    state = unboxed(boxed_state)
    whole = NamedSharding(next(iter(leaves.values())).sharding.mesh, PartitionSpec())
    splits = dict(parts_of(state, SplitState))
    windows = {path for path, _ in parts_of(state, BlockCoordinateState)}
    owner_of = owners_of(state, unboxed(params))

    def sharding(path: Path, x: Any) -> NamedSharding:
        own, starts = owner_of.get(path), [path[:i] for i in range(len(path))]
        split = next((start for start in reversed(starts) if start in splits), None)
        found = None
        if own is not None and split is not None:
            found = _of_split(splits[split], path[len(split)].name, own, x.shape, leaves)
        elif own is not None:
            found = _like_its_parameter(leaves[own], x.shape)
        elif split is None and not windows.isdisjoint(starts):
            found = _of_window(path, x.shape, leaves)
        return found or whole

    return boxed_like(jax.tree.map_with_path(sharding, state), boxed_state)


def _leaves(params: optax.Params, param_shardings: Any) -> dict[Path, _Leaf]:
    """Every parameter by its path."""
    try:
        shardings = jax.tree.broadcast(param_shardings, params, is_leaf=_is_sharding)
    except ValueError as error:
        raise ValueError(
            f"param_shardings must be a tree like params or a prefix of it: {error}. Give one NamedSharding for every "
            "leaf or subtree."
        ) from error
    leaves = {}
    given = jax.tree.leaves(shardings, is_leaf=_is_sharding)
    for (path, x), sharding in zip(jax.tree.leaves_with_path(params), given, strict=True):
        if not isinstance(sharding, NamedSharding):
            raise TypeError(
                f"the sharding of leaf {leaf_path(path)!r} is {sharding!r}, which names no mesh axes. Give a "
                "jax.sharding.NamedSharding, of PartitionSpec() for a leaf that is replicated."
            )
        leaves[path] = _Leaf(tuple(x.shape), _names(sharding, x.ndim), sharding)
    if not leaves:
        raise ValueError("params has no leaves, so there is no mesh to put a state on. Give params that have some.")
    return leaves


def _is_sharding(x: Any) -> bool:
    return isinstance(x, jax.sharding.Sharding)


def _names(sharding: NamedSharding, ndim: int) -> tuple[Names, ...]:
    """The mesh axes of each axis; a spec may be shorter than the rank, and name one axis, several
    or none.
    """

    def one(entry: Any) -> Names:
        if isinstance(entry, str):
            return (entry,)
        return entry if isinstance(entry, tuple) else ()

    entries = tuple(map(one, sharding.spec))
    return entries + ((),) * (ndim - len(entries))


def _sharding(like: NamedSharding, names: tuple[Names, ...]) -> NamedSharding:
    entries = [x[0] if len(x) == 1 else x or None for x in names]
    # As JAX spells its own outputs: another spelling of the same sharding would trace an update
    # anew.
    while entries and entries[-1] is None and AxisType.Explicit not in like.mesh.axis_types:
        entries.pop()
    return NamedSharding(like.mesh, PartitionSpec(*entries), memory_kind=like.memory_kind)


def _of_split(
    state: SplitState, field: str, own: Path, shape: tuple[int, ...], leaves: Mapping[Path, _Leaf]
) -> NamedSharding | None:
    """The sharding of an array of a `SplitState`: by the field it is in, and what its last two axes
    are.
    """
    layouts = dict(jax.tree.leaves_with_path(state.layouts, is_leaf=is_layout))
    leaf, layout = leaves[own], layouts[own]
    number = dict(jax.tree.leaves_with_path(state.block_counts))[own]
    sides, matrix = _sides(leaf, layout, number), shape[len(layout.batch) :]
    if shape[: len(layout.batch)] != layout.batch:
        return None
    mesh = leaf.sharding.mesh.shape
    m, n, r = (layout.m, sides.m), (layout.n, sides.moments), None
    if field == "inner_state" and matrix[1:] == (
        layout.n,
    ):  # r is 1 in the scales of 8-bit moments, which nothing divides
        r = (matrix[0], _dividing(matrix[0], (), sides.of_blocks + sides.rest, mesh))
    expected: tuple[Any, ...] = {
        "basis": (m, None),
        "rule_state": (m, None),
        "inner_state": (r, n),
        "residual_state": (m, n),
    }[field]
    if field in ("residual_state", "rule_state") and matrix == (layout.m, layout.n):
        expected = (m, (layout.n, sides.n))
    if len(matrix) == 1:
        expected = (m if field in ("basis", "rule_state") else n,)
    if field in ("basis", "rule_state") and number > 1 and matrix[0] == number:
        expected = ((number, sides.of_blocks), None, None)
    elif len(matrix) == 3:  # a single block
        expected = (None, m, None)
    names = tuple(side[1] if side and size == side[0] else () for size, side in zip(matrix, expected, strict=False))
    return leaf.placed(sides.batch + names)


def _sides(leaf: _Leaf, layout: MatrixLayout, number_of_blocks: int) -> _Sides:
    """Which mesh axes the canonical form of a leaf has."""
    mesh = leaf.sharding.mesh.shape
    m, n = (_merged([leaf.names[i] for i in axes]) for axes in (layout.m_axes, layout.n_axes))
    # A device must hold the rows of its own blocks, so these axes come first in m.
    divided = [math.prod(mesh[name] for name in m[: i + 1]) for i in range(len(m))]
    of_blocks = m[: sum(number_of_blocks % size == 0 for size in divided)] if number_of_blocks > 1 else ()
    others = m[len(of_blocks) :]
    moments = _dividing(layout.n, n, others, mesh)
    rest = tuple(name for name in others if name not in moments)
    return _Sides(tuple(leaf.names[i] for i in layout.batch_axes), m, n, of_blocks, moments, rest)


def _dividing(size: int, names: Names, more: Names, mesh: Mapping[str, int]) -> Names:
    """The mesh axes `names` of an axis of this length, and those of `more` that divide it beside
    them.
    """
    for name in more:
        if size % math.prod(mesh[x] for x in (*names, name)) == 0:
            names = (*names, name)
    return names


def _merged(names: list[Names]) -> Names:
    """The mesh axes of several axes made one: those of the first, if no other has any."""
    return () if any(names[1:]) else names[0]


def _like_its_parameter(leaf: _Leaf, shape: tuple[int, ...]) -> NamedSharding | None:
    """The parameter's sharding, along the axes that are as long as the parameter's."""
    if len(shape) != len(leaf.shape):
        return None
    return leaf.placed(tuple(x if a == b else () for x, a, b in zip(leaf.names, shape, leaf.shape, strict=True)))


def _of_window(path: Path, shape: tuple[int, ...], leaves: Mapping[Path, _Leaf]) -> NamedSharding | None:
    """Leaves of blocks that are named by prefixes, stacked: as every block's, if all agree."""
    name = leaf_path(path[-1:])
    blocks = [x for p, x in leaves.items() if leaf_path(p).endswith(f"/{name}") and x.shape == shape[1:]]
    if not blocks or any(x.names != blocks[0].names for x in blocks):
        return None
    return blocks[0].placed(((), *blocks[0].names))
