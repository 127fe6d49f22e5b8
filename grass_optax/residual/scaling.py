"""Residuals that multiply columns or entries by numbers, and the limit on their growth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._linalg.norms import column_norms, frobenius_norm
from grass_optax.residual.marks import Residual, map_present, marked, per_column, split_of

# A column whose projected gradient is this far below the root mean square over columns has none:
# its ratio would be noise.
_NEGLIGIBLE = 1e-6


class NormGrowthLimitState(NamedTuple):
    """State of `norm_growth_limit`.

    Attributes:
      norm: (...) per leaf: the Frobenius norm of the last output of each matrix; 0 if not set.
    """

    norm: PyTree


def recovery(max_norm_growth: ArrayLike | None = 1.01, removed_fraction: ArrayLike = 1.0) -> Residual:
    """Recovery scaling, then the norm-growth limit (RS in the papers; Fira).

    Args:
      max_norm_growth: zeta of `norm_growth_limit`; None switches the limit off.
      removed_fraction: c in R = G - c S S^T G: 1 in the papers, `scale` in Fira's released code.
    """
    tx = _limited(recovery_scaling(), max_norm_growth)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        _require_removed(split_of(extra_args).removed_fraction, removed_fraction)
        return tx.update(updates, state, params, **extra_args)

    limited = optax.GradientTransformationExtraArgs(tx.init, update)
    return marked(limited, per_column=True, removed_fraction=removed_fraction)


def channel_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """Each column of the gradient times sqrt(scale) ||N_i|| / ||g_i||, limited (APOLLO).

    Use it with `lift=False`, where the residual is the gradient itself. The limit is applied before
    the scale.
    """
    return _scaled(recovery_scaling(), max_norm_growth, scale)


def tensor_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """The whole gradient times sqrt(scale) ||N||_F / ||g||_F, limited (APOLLO-Mini).

    Use it with `lift=False`. The limit is applied before the scale.
    """
    return _scaled(_multiplied(_norm_ratio), max_norm_growth, scale)


def sign(scale: ArrayLike = 1.0) -> optax.GradientTransformation:
    """scale sign(R), entry by entry (FRUGAL)."""

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        del params
        return jax.tree.map(lambda x: jnp.asarray(scale, x.dtype) * jnp.sign(x), updates)

    return optax.stateless(update)


def recovery_scaling() -> optax.GradientTransformationExtraArgs:
    """Scale each column as the inner optimizer scaled its projection (eq. 9)::

      L_i = (||N_i|| / ||g_i||) R_i

    The factor is 0 where ||g_i|| is negligible: momentum may move such a column, but does not
    determine its scale.
    """
    return _multiplied(recovery_factors)


def norm_growth_limit(max_norm_growth: ArrayLike) -> optax.GradientTransformation:
    """Let the Frobenius norm of each matrix grow by at most a factor per step (eq. 10)::

      l = ||L||_F;  L <- min(1, zeta p / l) L if p > 0;  p <- ||L||_F after that

    p is not reset at refreshes, and p = 0 means "not set", so that a first gradient of zero does
    not hold the rest down.

    Args:
      max_norm_growth: zeta, the factor; infinity sets no limit.
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


def recovery_factors(projected: Float[Array, "*b r n"], direction: Float[Array, "*b r n"]) -> Float[Array, "*b 1 n"]:
    """phi_i = ||N_i|| / ||g_i||, and 0 where ||g_i|| is negligible."""
    scale = column_norms(projected)
    rms = jnp.sqrt(jnp.mean(jnp.square(scale), axis=-1, keepdims=True))
    present = scale > _NEGLIGIBLE * rms
    return jnp.where(present, column_norms(direction) / jnp.where(present, scale, 1), 0)


def _norm_ratio(projected: Float[Array, "*b r n"], direction: Float[Array, "*b r n"]) -> Float[Array, "*b 1 1"]:
    norm = frobenius_norm(projected)
    ratio = jnp.where(norm > 0, frobenius_norm(direction) / jnp.where(norm > 0, norm, 1), 0)
    return ratio[..., None, None]


def _limit(norm: Float[Array, "*b"], last: Float[Array, "*b"], growth: ArrayLike) -> Float[Array, "*b"]:
    ceiling = jnp.asarray(growth, norm.dtype) * last
    exceeds = (last > 0) & (norm > ceiling)
    return jnp.where(exceeds, ceiling / jnp.where(norm > 0, norm, 1), 1)


def _multiplied(factors_of: Callable[[Array, Array], Array]) -> optax.GradientTransformationExtraArgs:
    """R times factors, a function of the inner optimizer's input and output."""

    def multiplied(outside: Array, projected: Array, direction: Array) -> Array:
        return (factors_of(projected, direction) * outside).astype(outside.dtype)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params
        split = split_of(extra_args)
        return map_present(multiplied, updates, split.projected, split.direction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _require_removed(given: ArrayLike, needed: ArrayLike) -> None:
    """A chain or a mask loses the mark `removed_fraction`: refuse to work on another residual."""
    numbers = isinstance(given, int | float) and isinstance(needed, int | float)
    if given is not needed and not (numbers and given == needed):
        raise ValueError(
            f"recovery(removed_fraction={needed}) is given R = G - {given} S S^T G, because a chain, "
            "a mask or a partition of it loses its marks. Mark what you made of it again: "
            "residual.marked(tx, per_column=True, removed_fraction=...)."
        )


def _limited(
    tx: optax.GradientTransformation, max_norm_growth: ArrayLike | None
) -> optax.GradientTransformationExtraArgs:
    limit = optax.identity() if max_norm_growth is None else norm_growth_limit(max_norm_growth)
    return optax.chain(tx, limit)


def _scaled(tx: optax.GradientTransformation, max_norm_growth: ArrayLike | None, scale: ArrayLike) -> Residual:
    def scaled(updates: optax.Updates, params: Any) -> optax.Updates:
        del params
        return jax.tree.map(lambda x: jnp.sqrt(jnp.asarray(scale, x.dtype)) * x, updates)

    return per_column(optax.chain(_limited(tx, max_norm_growth), optax.stateless(scaled)))
