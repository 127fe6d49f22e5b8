"""The limit on how fast the norm of a residual may grow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._linalg.norms import frobenius_norm


class NormGrowthLimitState(NamedTuple):
    """State of `norm_growth_limit`.

    Attributes:
      norm: (...) per leaf: the Frobenius norm of the last output of each matrix; 0 if not set.
    """

    norm: PyTree


def norm_growth_limit(max_norm_growth: ArrayLike) -> optax.GradientTransformation:
    """Limit the growth of the Frobenius norm of each matrix from one step to the next (eq. 10).

    With p the norm of the last output::

      l = ||L||_F;  L <- min(1, zeta p / l) L if p > 0;  p <- ||L||_F after that

    p is not reset at refreshes, and p = 0 means "not set", so that a first gradient of zero does
    not hold the rest down.

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
        return NormGrowthLimitState(jax.tree.map(lambda x: jnp.zeros(x.shape[:-2], x.dtype), params))

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, NormGrowthLimitState]:
        del params
        norms = jax.tree.map(frobenius_norm, updates)
        factors = jax.tree.map(lambda norm, last: _limit(norm, last, max_norm_growth), norms, state.norm)
        updates = jax.tree.map(lambda f, x: f[..., None, None] * x, factors, updates)
        return updates, NormGrowthLimitState(jax.tree.map(jnp.multiply, factors, norms))

    return optax.GradientTransformation(init, update)


def _limit(norm: Float[Array, "*b"], last: Float[Array, "*b"], growth: ArrayLike) -> Float[Array, "*b"]:
    ceiling = jnp.asarray(growth, norm.dtype) * last
    exceeds = (last > 0) & (norm > ceiling)
    return jnp.where(exceeds, ceiling / jnp.where(norm > 0, norm, 1), 1)
