"""Weights as INT8 codes with a scale for each block of a column, and optimizers that update them.

A block is 256 entries of a column, those of the axis that a product sums over. Its scale is a power
of two. So float32 and bfloat16 have exactly what is stored, a sum of a weight and an update is
rounded to the same grid until the largest entry of the block has grown or shrunk by a factor of 2,
and a weight that is not updated stays as it is. A scale that follows the largest entry itself would
round all entries of the block at every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from grass_optax._inner.sums import leaf_draws, step_seed
from grass_optax._linalg.rounding import power_of_two, rounded_to_multiple
from grass_optax._trees.keys import checked_key, numbers_of
from grass_optax._trees.mesh import in_order
from grass_optax._trees.paths import is_function, require_float

BLOCK = 256  # entries of a column with one scale, which takes a hundredth of the memory of their codes
_LARGEST = 127  # of the codes: what is above 0 and below 0 has the same range
_SMALLEST_SCALE = 2.0**-120  # so that a code times it is a normal float32


class Int8(NamedTuple):
    """A weight (..., m, n) as codes and scales, at its place in the parameters.

    Attributes:
      codes: (..., m, n), int8, from -127 to 127.
      scale: (..., ceil(m / 256), n), powers of two, in the type of the weight.
    """

    codes: jax.Array
    scale: jax.Array


class Int8State(NamedTuple):
    """State of `in_int8`.

    Attributes:
      count: (), int32; updates so far.
      inner: the state of the optimizer.
    """

    count: jax.Array  # type: ignore[assignment]  # tuple.count
    inner: optax.OptState


def to_int8(params: optax.Params, mask: PyTree | Callable[[optax.Params], PyTree]) -> optax.Params:
    """Store parameters as INT8 codes, rounded to the nearest.

    Args:
      params: arrays.
      mask: True for each leaf to store so, each with two axes or more; a tree like params or a
        prefix of it, or a function of params that returns one.

    Returns:
      The parameters, with an `Int8` for each of these leaves.

    Raises:
      TypeError: a leaf that is not floating point.
      ValueError: a leaf without two axes.

    Examples:
      >>> params = grass_optax.to_int8({"w": jnp.array([[1.0, 0.1], [0.5, -0.2]])}, mask=True)
      >>> params["w"].codes.tolist(), params["w"].scale.tolist()
      ([[64, 51], [32, -102]], [[0.015625, 0.001953125]])
    """
    chosen = jax.tree.broadcast(mask(params) if is_function(mask) else mask, params)

    def one(path: Any, x: Array, is_chosen: bool) -> Any:
        if not is_chosen:
            return x
        require_float(path, x)
        if jnp.ndim(x) < 2:
            raise ValueError(
                f"leaf {jax.tree_util.keystr(path, simple=True, separator='/')!r} has the shape {jnp.shape(x)}, which "
                "has no columns. Choose matrices and stacks of them with `mask`."
            )
        # One matrix after the other, so that a whole stack is never there in float32.
        return _nearest(x) if jnp.ndim(x) == 2 else jax.lax.map(_nearest, jnp.asarray(x))

    return jax.tree.map_with_path(one, params, chosen)


def from_int8(params: optax.Params, dtype: DTypeLike | None = None) -> optax.Params:
    """Return the arrays that parameters store, exactly.

    Args:
      params: a tree that may have an `Int8` in the place of a leaf.
      dtype: the type of these arrays; None for that of the weight before it was stored.

    Returns:
      The tree with arrays.

    Examples:
      >>> params = grass_optax.to_int8({"w": jnp.array([[1.0], [0.5]], jnp.bfloat16)}, mask=True)
      >>> print(grass_optax.from_int8(params)["w"].tolist())
      [[1.0], [0.5]]
    """

    def one(x: Any) -> Any:
        if not isinstance(x, Int8):
            return x
        own = dtype or x.scale.dtype
        return _whole(_blocks(x.codes.astype(own)) * x.scale.astype(own)[..., None, :], x.codes.shape)

    return jax.tree.map(one, params, is_leaf=is_int8)


def in_int8(tx: optax.GradientTransformation, key: jax.Array | int = 0) -> optax.GradientTransformationExtraArgs:
    """Run an optimizer on parameters of which some are stored by `to_int8`.

    The optimizer sees float32 weights and gradients. The sum of a weight and its update is rounded
    to one of the two neighbouring codes at random, so that the sum is their mean: rounded to the
    nearest, an update below half a code would be lost. With s the scale of a block::

      s = the smallest power of two with |w_i + u_i| <= 127 s for all i of the block
      E[code_i] s = w_i + u_i

    This is the outermost transformation, so that its updates are those of codes and scales:
    `optax.apply_updates` arrives at the new ones. The gradients are those by `from_int8(params)`.
    Other parameters are unchanged; `stochastic_rounding` in `tx` is for those of bfloat16. The
    draws are a function of key, number of updates, path of the leaf and index of the entry.

    Args:
      tx: a complete optimizer.
      key: an int, or a threefry key.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: a key of another kind; an update without parameters.

    Examples:
      >>> params = grass_optax.to_int8({"w": jnp.ones((1000, 10))}, mask=True)
      >>> tx = grass_optax.in_int8(optax.sgd(1e-3))
      >>> state = tx.init(params)
      >>> grads = jax.grad(lambda p: -p["w"].sum())(grass_optax.from_int8(params))
      >>> updates, state = tx.update(grads, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(f"{grass_optax.from_int8(params)['w'].mean():.3f}")
      1.001

    References:
      Zhang et al., `Q-GaLore <https://arxiv.org/abs/2407.08296>`_, 2024, whose weights have another
      code
    """
    key, tx = checked_key(key), optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> Int8State:
        return Int8State(jnp.zeros((), jnp.int32), tx.init(from_int8(params, jnp.float32)))

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, Int8State]:
        if params is None:
            raise ValueError("in_int8 rounds sums with parameters, and has none: pass params to update.")
        weights = from_int8(params, jnp.float32)
        grads = jax.tree.map(lambda p, g: g.astype(jnp.float32) if is_int8(p) else g, params, updates, is_leaf=is_int8)
        updates, inner = tx.update(grads, state.inner, weights, **extra_args)
        seed = step_seed(key, state.count)
        numbers = numbers_of(path for path, _ in jax.tree.leaves_with_path(weights))

        def one(path: Any, param: Any, update: Array) -> Any:
            if not is_int8(param):
                return update
            return _change(param, update, leaf_draws(seed, numbers[path], update.shape))

        changes = jax.tree.map_with_path(one, params, updates, is_leaf=is_int8)
        return changes, Int8State(state.count + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def codes_of(tree: PyTree) -> PyTree:
    """The tree with the codes in the place of each `Int8`: arrays of the shape of the weight."""
    return jax.tree.map(lambda x: x.codes if is_int8(x) else x, tree, is_leaf=is_int8)


def is_int8(x: Any) -> bool:
    """Whether this is an `Int8`."""
    return isinstance(x, Int8)


def _nearest(x: Float[Array, "*b m n"]) -> Int8:
    blocks = _blocks(x.astype(jnp.float32))
    scale = _scale(blocks)
    codes = jnp.round(blocks / scale[..., None, :]).astype(jnp.int8)
    return Int8(_whole(codes, x.shape), scale.astype(x.dtype))


def _change(param: Int8, update: Float[Array, "*b m n"], draws: Float[Array, "*b m n"]) -> Int8:
    """What leads from a stored weight to its sum with an update; integers of 8 bits wrap around."""
    old = param.scale.astype(jnp.float32)
    # In an order of its choice, and on whole columns, the compiler of a TPU turned the sums and had
    # the scales spread over the matrix in float32, twice.
    codes, update = in_order(_blocks(param.codes)), in_order(_blocks(update))
    blocks = codes.astype(jnp.float32) * old[..., None, :] + update
    scale = _scale(blocks)
    spacing = scale[..., None, :]
    codes = (rounded_to_multiple(blocks, spacing, _blocks(draws)) / spacing).astype(jnp.int8)
    return Int8(_whole(codes, param.codes.shape) - param.codes, scale - old)


def _scale(blocks: Float[Array, "*b k p n"]) -> Float[Array, "*b k n"]:
    """The smallest power of two for each block, of which no entry is more than 127 times as large.

    It is NaN for a block that is not finite, so that the weight is, too.
    """
    largest = jnp.max(jnp.abs(blocks), axis=-2)
    scale = power_of_two(largest) * 2.0**-6
    scale = jnp.where(largest > _LARGEST * scale, 2 * scale, scale)
    return jnp.where(jnp.isfinite(largest), jnp.maximum(scale, _SMALLEST_SCALE), jnp.nan)


def _blocks(x: Float[Array, "*b m n"]) -> Float[Array, "*b k p n"]:
    """The blocks of each column, the last one filled up with zeros.

    All arithmetic is on these: scales that are spread over a matrix (m, n) are not fused on a TPU.
    """
    *batch, m, n = x.shape
    block = min(BLOCK, m)
    x = jnp.pad(x, [(0, 0)] * len(batch) + [(0, -m % block), (0, 0)]) if m % block else x
    return x.reshape(*batch, -1, block, n)


def _whole(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Undo `_blocks`."""
    *batch, m, n = shape
    return blocks.reshape(*batch, -1, n)[..., :m, :]
