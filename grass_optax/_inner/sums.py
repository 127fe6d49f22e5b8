"""Sums of narrow parameters and their updates, rounded so that small updates are not lost."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from grass_optax._linalg.rounding import mixed, stochastically_rounded, uniform
from grass_optax._trees.boxes import without_boxes
from grass_optax._trees.keys import checked_key, first_index, numbers_of, typed_key

_NARROW = jnp.dtype(jnp.bfloat16)
_PURPOSE = np.uint32(zlib.crc32(b"sums with updates"))  # narrow moments draw from the same key


class RoundingState(NamedTuple):
    """State of `stochastic_rounding`.

    Attributes:
      count: (), int32; updates so far.
    """

    count: jax.Array  # type: ignore[assignment]  # tuple.count


def stochastic_rounding(key: jax.Array | np.ndarray | int = 0) -> optax.GradientTransformationExtraArgs:
    """Round sums of bfloat16 parameters and updates up or down, at random with the right mean.

    bfloat16 has 8 bits. Rounded to the nearest, the sum with an update below 1/512 of the parameter
    is the parameter itself, and training stops. Here it is one of the two neighbours of the sum,
    with the probabilities that make the sum their mean. A sum that bfloat16 can represent stays as
    it is, and so do infinities and NaN.

    This is the last of a chain, and `update` needs the parameters. The updates of bfloat16
    parameters become float32: `optax.apply_updates` adds them and arrives at the neighbour.
    Others are unchanged. The draws are a function of key, number of updates, path of the leaf and
    index of the entry, so they are the same on every mesh and after a resume.

    Args:
      key: an int, or a threefry key.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: a key of another kind; an update without parameters.

    Examples:
      >>> params = jnp.ones(10_000, jnp.bfloat16)
      >>> tx = optax.chain(optax.sgd(1e-3), grass_optax.stochastic_rounding())
      >>> updates, state = tx.update(-jnp.ones_like(params), tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params.dtype, f"{params.astype(jnp.float32).mean():.3f}")
      bfloat16 1.001
    """
    key = checked_key(key)

    def init(params: optax.Params) -> RoundingState:
        del params
        return RoundingState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, RoundingState]:
        del extra_args
        if params is None:
            raise ValueError("stochastic_rounding rounds sums with parameters, and has none: pass params to update.")
        seed = step_seed(key, state.count)
        numbers = numbers_of(path for path, _ in jax.tree.leaves_with_path(updates))

        def one(path: Any, update: Array, param: Array) -> Array:
            if param.dtype != _NARROW:
                return update
            draws = leaf_draws(seed, numbers[path], param.shape)
            return _to_neighbour(param.astype(jnp.float32), update.astype(jnp.float32), draws)

        return jax.tree.map_with_path(one, updates, params), RoundingState(state.count + 1)

    return without_boxes(optax.GradientTransformationExtraArgs(init, update))


def step_seed(key: jax.Array | int, count: Array) -> Array:
    """The seed of all roundings of an update, (), uint32."""
    seed = mixed(jax.random.bits(typed_key(key), (), jnp.uint32) ^ _PURPOSE)
    return mixed(seed + count.astype(jnp.uint32))


def leaf_draws(seed: Array, numbers: tuple[int, ...], shape: tuple[int, ...]) -> Float[Array, "*s"]:
    """The draws from [0, 1) of the entries of a leaf, which has these numbers."""
    for number in numbers:
        seed = mixed(seed ^ np.uint32(number))
    return uniform(shape, seed, first_index())


def _to_neighbour(
    param: Float[Array, "*s"], update: Float[Array, "*s"], draws: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """The update that leads to a neighbour of the sum: a float32 sum with it is so close to the
    neighbour that it is rounded to it.
    """
    exact = param + update
    info = jnp.finfo(_NARROW)
    is_represented = lax.reduce_precision(exact, exponent_bits=info.nexp, mantissa_bits=info.nmant) == exact
    neighbour = jnp.where(is_represented, exact, stochastically_rounded(exact, _NARROW, draws))
    return jnp.where(jnp.isfinite(param), neighbour - param, update)
