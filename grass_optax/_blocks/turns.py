"""Block-coordinate optimization: a few blocks of the parameters at a time, with state for those
alone.

`split_by_subspace` splits the space of one matrix; this optimizes whole layers in turn. Which
blocks are active is a function of (key, count), so the state is a count and the inner state of one
window of blocks.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import PyTree

from grass_optax._blocks.cuts import cut_into
from grass_optax._checks import one_of, positive
from grass_optax._linalg.dtypes import as_arrays, as_shapes, as_wide_as, widened
from grass_optax._trees.boxes import without_boxes
from grass_optax._trees.keys import checked_key, typed_key

Order = Literal["random", "ascending", "descending"]


class BlockCoordinateState(NamedTuple):
    """State of `block_coordinate`.

    Attributes:
      count: (), int32: the number of updates so far.
      inner_state: the inner optimizer's state over the active window: leaves (..., active, ...).
    """

    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


class ActiveOnlyState(NamedTuple):
    """State of `active_only`.

    Attributes:
      count: (), int32: the number of updates so far.
      inner: the state of the transformation, over all blocks.
    """

    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Turns:
    """Which blocks are active when."""

    switch_gap: int
    active: int
    order: str
    key: jax.Array | int

    @classmethod
    def checked(cls, switch_gap: int, active: int, order: str, key: jax.Array | int) -> "_Turns":
        """The turns, or an error that names the argument that cannot work."""
        return cls(
            switch_gap=positive("switch_gap", switch_gap),
            active=positive("active", active),
            order=one_of("order", order, get_args(Order)),
            key=checked_key(key),
        )

    def window(self, count: jax.Array, blocks: int) -> jax.Array:
        """The numbers (active,) of the blocks that the update after `count` others optimizes."""
        blocks = max(blocks, self.active)  # a tree without leaves has no blocks, and nothing is taken from it
        cycle, position = jnp.divmod(count // self.switch_gap, blocks // self.active)
        order = jnp.arange(blocks, dtype=jnp.int32)
        if self.order == "descending":
            order = order[::-1]
        if self.order == "random":
            order = jax.random.permutation(jax.random.fold_in(typed_key(self.key), cycle), order)
        return lax.dynamic_slice(order, (position * self.active,), (self.active,))


def block_coordinate(
    inner: optax.GradientTransformation,
    inactive: optax.GradientTransformation | None = None,
    *,
    switch_gap: int,
    blocks: int | Sequence[str] = 0,
    active: int = 1,
    order: Order = "random",
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Optimize `active` of N blocks by `inner` and the others by `inactive`, in turns of K updates.

    Windows of `active` blocks follow each other in `order`. One update of the gradients G_1 ... G_N
    at t = count + 1, in window number floor((t - 1) / K), K = switch_gap::

      1. t = 1 + jK: inner state = inner.init(0)
      2. U_i = inner(G_i) for the blocks of the window, inactive(G_i), or 0, for the others

    U is the direction of the update, not negated. The state is that of `inner` for one window,
    whatever N is. Every block gets K updates in a row; in BAdam's released code the first gets
    K - 1, because the switch is tested one update early.

    Args:
      inner: any Optax transformation. It sees gradients and params of only the active blocks, in
        float32 at least and stacked: (..., active, ...) along the axis `blocks`, or (active, ...)
        in a dict of paths below the prefix. Other arguments of `update` are passed on unchanged.
      inactive: a stateless Optax transformation. It sees the gradients of all blocks; its output
        for the active ones is replaced. None freezes the inactive blocks.
      switch_gap: K, the number of updates from one window to the next.
      blocks: the axis along which every leaf stacks the blocks, or the prefixes of their paths
        ("layers/0", ...), which match whole parts. Every leaf must be in exactly one block, and all
        blocks must hold leaves of the same shapes and types.
      active: the number of blocks in a window; N must be a multiple of it.
      order: "ascending", "descending", or "random", a permutation for each cycle of N / active
        windows.
      key: an int or a threefry key, for "random": the permutation is a function of (key, cycle).

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: an argument cannot work (when built), or the tree has no such blocks (in `init`).

    Examples:
      One of four layers is optimized by Adam, with moments for that layer alone; the others are
      frozen. With `inactive=optax.scale_by_sign()` this is the block mode of FRUGAL.

      >>> params = {"kernel": jnp.full((4, 3, 5), 2.0)}
      >>> adam = optax.scale_by_adam()
      >>> tx = grass_optax.block_coordinate(adam, switch_gap=200, order="ascending")
      >>> updates, state = tx.update(params, tx.init(params))
      >>> [round(float(x), 3) for x in updates["kernel"][:, 0, 0]]
      [1.0, 0.0, 0.0, 0.0]
      >>> state.inner_state.mu["kernel"].shape
      (1, 3, 5)

    References:
      Luo et al., `BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language
      Models <https://arxiv.org/abs/2404.02827>`_, 2024

      Zmushko et al., `FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
      Training <https://arxiv.org/abs/2411.07837>`_, 2024
    """
    turns = _Turns.checked(switch_gap, active, order, key)
    cut = cut_into(blocks)
    wide_inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> BlockCoordinateState:
        params = as_shapes(params)
        _require_blocks(turns, cut.count(params), params)
        _require_stateless(inactive, params)
        some = jax.ShapeDtypeStruct((turns.active,), jnp.int32)
        window = jax.eval_shape(lambda p, i: widened(cut.take(p, i)), params, some)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), window)
        return BlockCoordinateState(jnp.zeros((), jnp.int32), wide_inner.init(zeros))

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, BlockCoordinateState]:
        updates, params = as_wide_as(updates, params), as_arrays(params)
        indices = turns.window(state.count, cut.count(updates))
        grads, active_params = (widened(cut.take(x, indices)) for x in (updates, params))
        fresh = wide_inner.init(jax.tree.map(jnp.zeros_like, grads))
        due = state.count % turns.switch_gap == 0
        inner_state = jax.tree.map(functools.partial(jnp.where, due), fresh, state.inner_state)
        directions, inner_state = wide_inner.update(grads, inner_state, active_params, **extra_args)
        others = _inactive(inactive, updates, params)
        count = jnp.asarray(optax.safe_increment(state.count))
        return cut.put(others, directions, indices), BlockCoordinateState(count, inner_state)

    return without_boxes(optax.GradientTransformationExtraArgs(init, update))


def active_only(
    tx: optax.GradientTransformation,
    *,
    switch_gap: int,
    blocks: int | Sequence[str] = 0,
    active: int = 1,
    order: Order = "random",
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Apply `tx` to the updates of the active blocks, and pass those of the others through.

    The active blocks are those of `block_coordinate` with the same arguments. The state of `tx`
    covers all blocks and does not restart with a block, so a schedule in it counts all updates.
    """
    turns = _Turns.checked(switch_gap, active, order, key)
    cut = cut_into(blocks)
    wide_tx = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> ActiveOnlyState:
        return ActiveOnlyState(jnp.zeros((), jnp.int32), wide_tx.init(params))

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, ActiveOnlyState]:
        transformed, inner = wide_tx.update(updates, state.inner_state, params, **extra_args)
        is_active = cut.is_active(updates, turns.window(state.count, cut.count(updates)))
        count = jnp.asarray(optax.safe_increment(state.count))
        return jax.tree.map(jnp.where, is_active, transformed, updates), ActiveOnlyState(count, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _inactive(
    tx: optax.GradientTransformation | None, updates: optax.Updates, params: optax.Params | None
) -> optax.Updates:
    """What becomes of the gradients of blocks that are not active."""
    if tx is None:
        return jax.tree.map(jnp.zeros_like, updates)
    return tx.update(updates, tx.init(updates), params)[0]


def _require_blocks(turns: _Turns, blocks: int, params: optax.Params) -> None:
    if blocks == 0 and jax.tree.leaves(params):
        raise ValueError(
            "the leaves have a size of 0 along the axis of the blocks, so there are no blocks. Keep such leaves away "
            "with optax.partition."
        )
    if blocks % turns.active:
        raise ValueError(
            f"active is {turns.active}, but there are {blocks} blocks: a cycle visits every block once. Give a divisor "
            f"of {blocks}."
        )


def _require_stateless(tx: optax.GradientTransformation | None, params: optax.Params) -> None:
    if tx is not None and jax.tree.leaves(jax.eval_shape(tx.init, params)):
        raise ValueError(
            "inactive has a state, but nothing is kept for inactive blocks. Give a transformation without one, such "
            "as optax.scale_by_sign(), or None."
        )
