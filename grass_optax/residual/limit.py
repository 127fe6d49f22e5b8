"""The limit on how fast the norm of a residual may grow."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from grass_optax._linalg.norms import frobenius_norm


class NormGrowthLimitState(NamedTuple):
    """State of `norm_growth_limit`.

    Attributes:
      norm: (...) per leaf: the Frobenius norm of the last output of each matrix; 0 if not set.
      held: (...) per leaf, int32: how many outputs in a row were held below half of their norm.
    """

    norm: PyTree
    held: PyTree


# Outputs in a row that are held below half of their norm before the limit begins anew. A spike of a
# gradient raises Adam's direction for less long: its first moment forgets it at 0.9^t, so that even
# the largest factor, 1 / sqrt(1 - b2) = 32 over an ordinary 1, is below 2 after it.
_LEVEL = 30


def norm_growth_limit(max_norm_growth: ArrayLike) -> optax.GradientTransformation:
    """Limit the growth of the Frobenius norm of each matrix from one step to the next (eq. 10).

    With p the norm of the last output::

      l = ||L||_F;  L <- min(1, zeta p / l) L if p is set;  p <- ||L||_F after that

    p is not reset at refreshes. It is not set while it is 0, and it no longer counts as set once 30
    outputs in a row were held below half of their norm: so a start from gradients that are zero, or
    so small that Adam's eps damps them, or of low rank, does not hold the rest down for hundreds of
    updates. Eq. 10 never lets go: it differs where a norm stays above twice its limit for 30
    updates.

    Args:
      max_norm_growth: zeta; infinity sets no limit.

    Returns:
      An Optax transformation of (..., m, n), whose state is a `NormGrowthLimitState`.

    Examples:
      >>> tx, x = residual.norm_growth_limit(1.5), jnp.ones((1, 1))
      >>> _, state = tx.update(2 * x, tx.init(x))
      >>> tx.update(8 * x, state)[0]
      Array([[3.]], dtype=float32)
    """

    def init(params: optax.Params) -> NormGrowthLimitState:
        return unset(jax.tree.map(lambda x: jnp.zeros(x.shape[:-2], x.dtype), params))

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, NormGrowthLimitState]:
        del params
        factors, state = limited(jax.tree.map(frobenius_norm, updates), state, max_norm_growth)
        return jax.tree.map(lambda f, x: f[..., None, None] * x, factors, updates), state

    return optax.GradientTransformation(init, update)


def with_limit(
    tx: optax.GradientTransformation, max_norm_growth: ArrayLike | None
) -> optax.GradientTransformationExtraArgs:
    """A transformation, and then the limit if there is one."""
    limit = optax.identity() if max_norm_growth is None else norm_growth_limit(max_norm_growth)
    return optax.chain(tx, limit)


def unset(zeros: PyTree) -> NormGrowthLimitState:
    """The first state, for norms of these shapes and types."""
    return NormGrowthLimitState(zeros, jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), zeros))


def limited(
    norms: PyTree, state: NormGrowthLimitState, max_norm_growth: ArrayLike
) -> tuple[PyTree, NormGrowthLimitState]:
    """The factors that keep norms to their limit, and the new state."""
    limit = functools.partial(_limit, growth=max_norm_growth)
    factors = jax.tree.map(limit, norms, state.norm, state.held)
    held = jax.tree.map(lambda f, count: jnp.where(f < 0.5, count + 1, 0), factors, state.held)
    return factors, NormGrowthLimitState(jax.tree.map(jnp.multiply, factors, norms), held)


@jax.jit
def _limit(
    norm: Float[Array, "*b"], last: Float[Array, "*b"], held: Int[Array, "*b"], growth: ArrayLike
) -> Float[Array, "*b"]:
    ceiling = jnp.asarray(growth, norm.dtype) * last
    exceeds = is_set(last, held) & (norm > ceiling)
    return jnp.where(exceeds, ceiling / jnp.where(norm > 0, norm, 1), 1)


def is_set(last: Float[Array, "*b"], held: Int[Array, "*b"]) -> Bool[Array, "*b"]:
    """Whether the norm of the last output limits the next one."""
    return (last > 0) & (held < _LEVEL)
