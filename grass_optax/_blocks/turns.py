"""Block-coordinate optimization: some blocks of the parameters at a time, with state for those
alone.

It stands beside `split_by_subspace`: that splits the space of one matrix, this takes whole layers
in turn. Which blocks are active is a function of (key, count), so the state is a count and the
inner state of one window of blocks.

Members: block_coordinate, BlockCoordinateState.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from grass_optax._blocks.cuts import cut_into
from grass_optax._checks import one_of, positive
from grass_optax._linalg.dtypes import widened
from grass_optax._trees.keys import checked_key, typed_key

_ORDERS = ("ascending", "descending", "random")


class BlockCoordinateState(NamedTuple):
    """State of `block_coordinate`."""

    count: jax.Array  # type: ignore[assignment]  # (), int32: updates so far
    inner: Any  # the inner optimizer's state over the active window: leaves (..., active, ...)


class _Turns(NamedTuple):
    """Whose turn it is."""

    switch_every: int
    active: int
    order: str
    key: jax.Array | int


def block_coordinate(
    inner: optax.GradientTransformation,
    inactive: optax.GradientTransformation | None = None,
    *,
    switch_every: int,
    blocks: int | Sequence[str] = 0,
    active: int = 1,
    order: str = "random",
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Optimize `active` of N blocks by `inner`, the others by `inactive`, and go on to the next
    every K updates.

    Windows of `active` blocks follow each other in `order`. One update of the gradients G_1 ... G_N
    at t = count + 1, in window number floor((t - 1) / K), K = switch_every:
      1. t = 1 + jK: inner state = inner.init(0)
      2. U_i = inner(G_i) for the blocks of the window, inactive(G_i), or 0, for the others

    U is the direction of the update, not negated. State: that of `inner` for one window, whatever
    N. Every block gets K updates in a row; in BAdam's released code the first gets K - 1, because
    the switch is tested one update early.

    Args:
      inner: any Optax transformation. It sees gradients and params of the active blocks alone, in
        float32 at least and stacked: (..., active, ...) along the axis `blocks`, or (active, ...)
        in a dict of paths below the prefix. Other arguments of `update` reach it as they are.
      inactive: a stateless Optax transformation. It sees the gradients of all blocks, and what it
        makes of the active ones is replaced. None freezes the inactive blocks.
      switch_every: K, updates from one window to the next.
      blocks: the axis along which every leaf stacks the blocks, or the prefixes of their paths
        ("layers/0", ...), which match whole parts; every leaf must be in one of them, and all must
        hold leaves of the same shapes and types.
      active: blocks in a window; N must be a multiple of it.
      order: "ascending", "descending", or "random", a permutation for each cycle of N / active
        windows.
      key: an int or a threefry key, for "random": the permutation is a function of (key, cycle).

    Raises:
      ValueError: an argument, or a tree that cannot be cut like this, when built or initialised.

    FRUGAL's block mode, a quarter of the layers with Adam and the others by the sign of their
    gradient:

    >>> params = {"kernel": jnp.ones((4, 3, 5))}
    >>> tx = block_coordinate(optax.scale_by_adam(), optax.scale_by_sign(), switch_every=200)
    >>> updates, state = tx.update(params, tx.init(params))
    >>> updates["kernel"].shape, state.inner.mu["kernel"].shape
    ((4, 3, 5), (1, 3, 5))

    Source: BAdam, arXiv 2404.02827, Algorithm 1; FRUGAL, arXiv 2411.07837.
    """
    turns = _Turns(
        positive("switch_every", switch_every),
        positive("active", active),
        one_of("order", order, _ORDERS),
        checked_key(key),
    )
    cut = cut_into(blocks)
    wide_inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> BlockCoordinateState:
        _require_blocks(turns, cut.count(params))
        _require_stateless(inactive, params)
        some = jax.ShapeDtypeStruct((turns.active,), jnp.int32)
        window = jax.eval_shape(lambda p, i: widened(cut.take(p, i)), params, some)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), window)
        return BlockCoordinateState(jnp.zeros((), jnp.int32), wide_inner.init(zeros))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        indices = _window(turns, state.count, cut.count(updates))
        grads, active_params = (widened(cut.take(x, indices)) for x in (updates, params))
        fresh = wide_inner.init(jax.tree.map(jnp.zeros_like, grads))
        due = state.count % turns.switch_every == 0
        inner_state = jax.tree.map(functools.partial(jnp.where, due), fresh, state.inner)
        directions, inner_state = wide_inner.update(grads, inner_state, active_params, **extra_args)
        others = _inactive(inactive, updates, params)
        count = jnp.asarray(optax.safe_increment(state.count))
        return cut.put(others, directions, indices), BlockCoordinateState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _window(turns: _Turns, count: jax.Array, blocks: int) -> jax.Array:
    """The indices (active,) of the blocks of the update after `count` others."""
    blocks = max(blocks, turns.active)  # a tree without leaves has no blocks, and nothing is taken from it
    cycle, position = jnp.divmod(count // turns.switch_every, blocks // turns.active)
    order = jnp.arange(blocks, dtype=jnp.int32)
    if turns.order == "descending":
        order = order[::-1]
    if turns.order == "random":
        order = jax.random.permutation(jax.random.fold_in(typed_key(turns.key), cycle), order)
    return lax.dynamic_slice(order, (position * turns.active,), (turns.active,))


def _inactive(tx: optax.GradientTransformation | None, updates: Any, params: Any) -> Any:
    """What becomes of the gradients of blocks that are not active."""
    if tx is None:
        return jax.tree.map(jnp.zeros_like, updates)
    return tx.update(updates, tx.init(updates), params)[0]


def _require_blocks(turns: _Turns, blocks: int) -> None:
    if blocks % turns.active:
        raise ValueError(
            f"active is {turns.active}, but there are {blocks} blocks: a cycle visits every block once. Give a divisor "
            f"of {blocks}."
        )


def _require_stateless(tx: optax.GradientTransformation | None, params: Any) -> None:
    if tx is not None and jax.tree.leaves(jax.eval_shape(tx.init, params)):
        raise ValueError(
            "inactive has a state, but nothing is kept for inactive blocks. Give a transformation without one, such "
            "as optax.scale_by_sign(), or None."
        )
