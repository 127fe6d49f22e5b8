"""Axis 3: what becomes of the part of the gradient outside the subspace?

A residual transformation is an Optax transformation of R = G - S S^T G that may read, as extra
arguments, trees of what the step knows: `grad`, `projected` (S^T G), `direction` (what the inner
optimizer made of it), `basis` and `previous_basis`, `inner_state` and `previous_inner_state` (after
and before the transport). None in its place drops the residual.

Most of them only multiply column i of R by a number. Marked `per_column`, such a transformation is
never given R: it gets the (..., 1, n) norms of R's columns, and the ratio of what it returns to
what it was given is the factor of each column. Fed the dense R it must do the same. `per_column` is
the module that feeds it.

Members: recovery, channel_scaling, tensor_scaling, sign, error_feedback; recovery_scaling,
norm_growth_limit, per_column; column_norms, finite_root.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._inner.states import first_moment
from grass_optax._linalg import grassmann
from grass_optax._linalg.grassmann import wide

# A column whose projected gradient is this far below the root mean square over columns has none:
# its ratio would be noise.
_NEGLIGIBLE = 1e-6


class ResidualTransformation(NamedTuple):
    """An Optax transformation of the residual, and how it wants to be fed."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    per_column: bool = False
    removed: ArrayLike = 1.0  # how much of the part inside is taken out of what it is given: G - removed S S^T G
    feedback: Callable[[Any], Any] | None = None  # what its state adds to the next gradient, (..., m, n) per leaf


class NormGrowthLimitState(NamedTuple):
    """State of `norm_growth_limit`."""

    norm: Any  # (...) per leaf: the Frobenius norm of the last output of each matrix; 0 = not set


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`."""

    error: Any  # (..., m, n) per leaf


def per_column(tx: optax.GradientTransformation) -> ResidualTransformation:
    """Mark a transformation that multiplies each column of the residual by a number."""
    return ResidualTransformation(tx.init, optax.with_extra_args_support(tx).update, True)


def recovery(max_norm_growth: ArrayLike | None = 1.01, removed: ArrayLike = 1.0) -> ResidualTransformation:
    """Recovery scaling and the norm-growth limit after it (RS in the papers; Fira). None switches
    the limit off.

    `removed` is for matching published code: theirs takes `scale` S S^T G out of the gradient where
    the papers take S S^T G.
    """
    return per_column(_limited(recovery_scaling(), max_norm_growth))._replace(removed=removed)


def channel_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> ResidualTransformation:
    """Each column of the gradient times sqrt(scale) ||N_i|| / ||g_i||, with the limit between the
    two (APOLLO).

    For a split without lift, where the residual is the gradient itself.
    """
    return _scaled(recovery_scaling(), max_norm_growth, scale)


def tensor_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> ResidualTransformation:
    """The whole gradient times sqrt(scale) ||N||_F / ||g||_F, limited the same way
    (APOLLO-Mini).
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        factors = jax.tree.map(_norm_ratio, extra["projected"], extra["direction"])
        return jax.tree.map(lambda f, r: (f * r).astype(r.dtype), factors, updates), state

    whole = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    return _scaled(whole, max_norm_growth, scale)


def sign(scale: ArrayLike = 1.0) -> optax.GradientTransformation:
    """scale sign(R), entry by entry (FRUGAL)."""

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda x: jnp.asarray(scale, x.dtype) * jnp.sign(x), updates)

    return optax.stateless(update)


def error_feedback(b1: ArrayLike) -> ResidualTransformation:
    """Nothing is done to the part outside now: it is added to the next gradient, with what the
    momentum lost in the move (LDAdam).

    e = G - S g + b1 / (1 - b1) (S_old M_old - S M),  M_old and M the first moment before and after
    the transport. State: mn numbers.
    """

    def init(params: Any) -> ErrorFeedbackState:
        return ErrorFeedbackState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del state, params

        def error(outside: Array, old_basis: Array, basis: Array, old_moment: Array, moment: Array) -> Array:
            decay = jnp.asarray(b1, outside.dtype)
            before, after = (
                grassmann.lift(s.astype(outside.dtype), x.astype(outside.dtype))
                for s, x in ((old_basis, old_moment), (basis, moment))
            )
            return outside + decay / (1 - decay) * (before - after)

        moments = (first_moment(extra[name], b1) for name in ("previous_inner_state", "inner_state"))
        errors = jax.tree.map(error, updates, extra["previous_basis"], extra["basis"], *moments)
        return jax.tree.map(jnp.zeros_like, updates), ErrorFeedbackState(errors)

    return ResidualTransformation(init, update, feedback=lambda state: state.error)


def recovery_scaling() -> optax.GradientTransformationExtraArgs:
    """Scale each column as the inner optimizer scaled its projection: L_i = (||N_i|| / ||g_i||) R_i
    (eq. 9).

    The factor is 0 where ||g_i|| is negligible: momentum may move such a column, but says nothing
    about its scale.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        factors = jax.tree.map(recovery_factors, extra["projected"], extra["direction"])
        return jax.tree.map(lambda f, r: (f * r).astype(r.dtype), factors, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def norm_growth_limit(max_norm_growth: ArrayLike) -> optax.GradientTransformation:
    """Let the Frobenius norm of each matrix grow by at most this factor a step (eq. 10).

    l = ||L||_F; L <- min(1, zeta p / l) L if p > 0; p <- ||L||_F after that. p is not reset at
    refreshes, and p = 0 means "not set", so that a first gradient of zero does not hold the rest
    down. zeta = inf limits nothing.
    """

    def init(params: Any) -> NormGrowthLimitState:
        return NormGrowthLimitState(jax.tree.map(lambda x: jnp.zeros(x.shape[:-2], x.dtype), params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norms = jax.tree.map(frobenius_norm, updates)
        factors = jax.tree.map(lambda norm, last: _limit(norm, last, max_norm_growth), norms, state.norm)
        updates = jax.tree.map(lambda f, x: f[..., None, None] * x, factors, updates)
        return updates, NormGrowthLimitState(jax.tree.map(jnp.multiply, factors, norms))

    return optax.GradientTransformation(init, update)


def _limited(
    tx: optax.GradientTransformation, max_norm_growth: ArrayLike | None
) -> optax.GradientTransformationExtraArgs:
    limit = optax.identity() if max_norm_growth is None else norm_growth_limit(max_norm_growth)
    return optax.chain(tx, limit)


def _scaled(
    tx: optax.GradientTransformation, max_norm_growth: ArrayLike | None, scale: ArrayLike
) -> ResidualTransformation:
    def scaled(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda x: jnp.sqrt(jnp.asarray(scale, x.dtype)) * x, updates)

    return per_column(optax.chain(_limited(tx, max_norm_growth), optax.stateless(scaled)))


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


def column_norms(x: Float[Array, "*b m n"]) -> Float[Array, "*b 1 n"]:
    """The 2-norm of each column, in float32 at least; 0 where it is not finite, so that nothing is
    scaled by it.

    The squares of a float32 column overflow above 1e19.
    """
    return finite_root(sum_of_squares(x))


def finite_root(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, 0 where it is not finite."""
    norms = jnp.sqrt(squares)
    return jnp.where(jnp.isfinite(norms), norms, 0)


def sum_of_squares(x: Float[Array, "*b m n"]) -> Float[Array, "*b 1 n"]:
    """The squared 2-norm of each column, in float32 at least."""
    return jnp.sum(jnp.square(x.astype(wide(x.dtype))), axis=-2, keepdims=True)


def frobenius_norm(x: Float[Array, "*b m n"]) -> Float[Array, "*b"]:
    """The Frobenius norm of each matrix, 0 where it is not finite; of a row of column norms the
    same.
    """
    return finite_root(jnp.sum(sum_of_squares(x), axis=(-2, -1)))


def _limit(norm: Float[Array, "*b"], last: Float[Array, "*b"], growth: ArrayLike) -> Float[Array, "*b"]:
    ceiling = jnp.asarray(growth, norm.dtype) * last
    return jnp.where((last > 0) & (norm > ceiling), ceiling / jnp.where(norm > 0, norm, 1), 1)
