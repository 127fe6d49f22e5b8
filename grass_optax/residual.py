"""Axis 3: what becomes of the part of the gradient outside the subspace?

A residual is an Optax transformation of R = G - S S^T G, so `optax.chain`, `optax.masked` and
`optax.partition` of one work. What the step knows comes in one extra argument, `split`: `grad`,
`projected` (S^T G), `direction` (what the inner optimizer returned for it), `basis` and
`previous_basis`, `inner_state` and `previous_inner_state` (after and before the transport). None in
place of a residual drops R.

How the step must feed a residual stands beside it, in a record `Marks`. Most residuals only
multiply column i of R by a number. Marked `per_column`, such a one is never given R, which then
need not be formed. It gets the norms of R's columns (..., 1, n), and what it returns over what it
was given is the factor of each column. Given R itself it must do the same. A chain of residuals has
no marks and is given R; `per_column` marks it again.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._inner.states import first_moment
from grass_optax._linalg.norms import column_norms, frobenius_norm
from grass_optax._linalg.products import lift

__all__ = [
    "recovery",
    "channel_scaling",
    "tensor_scaling",
    "sign",
    "error_feedback",
    "recovery_scaling",
    "norm_growth_limit",
    "per_column",
    "Residual",
    "Marks",
    "NormGrowthLimitState",
    "ErrorFeedbackState",
]

# A column whose projected gradient is this far below the root mean square over columns has none:
# its ratio would be noise.
_NEGLIGIBLE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marks:
    """How the step feeds a residual transformation.

    Attributes:
      per_column: give it the column norms (..., 1, n) in place of R.
      removed_fraction: c in R = G - c S S^T G.
      feedback: a function of the residual's state to what is added to the next gradient, a tree of
        (..., m, n), or None.

    Raises:
      ValueError: a residual that sees column norms alone and feeds an error back.
    """

    per_column: bool = False
    removed_fraction: ArrayLike = 1.0
    feedback: Callable[[PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        if self.per_column and self.feedback is not None:
            raise ValueError(
                "a residual marked per_column sees column norms alone, so it has no error to feed "
                "back. Leave out per_column or feedback."
            )


class Residual(optax.GradientTransformationExtraArgs):
    """An Optax transformation of the residual that carries its `Marks`.

    Attributes:
      marks: how the step feeds it.
    """

    marks: Marks

    def __new__(cls, tx: optax.GradientTransformation, **marks: Any) -> "Residual":
        """The transformation `tx` with marks, given by name."""
        self = super().__new__(cls, tx.init, optax.with_extra_args_support(tx).update)
        self.marks = Marks(**marks)
        return self


class NormGrowthLimitState(NamedTuple):
    """State of `norm_growth_limit`.

    Attributes:
      norm: (...) per leaf: the Frobenius norm of the last output of each matrix; 0 if not set.
    """

    norm: PyTree


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`.

    Attributes:
      error: (..., m, n) per leaf, added to the next gradient.
    """

    error: PyTree


def as_residual(tx: optax.GradientTransformation | None) -> Residual | None:
    """Any Optax transformation as a residual: without marks, it is given R.

    An `error_feedback` inside, in a chain or under a mask, still feeds its error back.
    """
    if tx is None or isinstance(tx, Residual):
        return tx
    return Residual(tx, feedback=_errors)


def per_column(tx: optax.GradientTransformation) -> Residual:
    """Mark a transformation that multiplies each column of the residual by a number.

    Examples:
      >>> halved = residual.per_column(optax.chain(residual.recovery(), optax.scale(0.5)))
      >>> halved.marks.per_column
      True
    """
    marks = tx.marks if isinstance(tx, Residual) else Marks()
    return Residual(tx, **(vars(marks) | {"per_column": True}))


def recovery(max_norm_growth: ArrayLike | None = 1.01, removed_fraction: ArrayLike = 1.0) -> Residual:
    """Recovery scaling, then the norm-growth limit (RS in the papers; Fira).

    Args:
      max_norm_growth: zeta of `norm_growth_limit`; None switches the limit off.
      removed_fraction: c in R = G - c S S^T G. The papers have 1; released code has `scale`.
    """
    tx = _limited(recovery_scaling(), max_norm_growth)
    return Residual(tx, per_column=True, removed_fraction=removed_fraction)


def channel_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """Each column of the gradient times sqrt(scale) ||N_i|| / ||g_i||, limited (APOLLO).

    For a split without lift, where the residual is the gradient itself. The limit comes before the
    scale.
    """
    return _scaled(recovery_scaling(), max_norm_growth, scale)


def tensor_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """The whole gradient times sqrt(scale) ||N||_F / ||g||_F, limited (APOLLO-Mini).

    For a split without lift. The limit comes before the scale.
    """
    return _scaled(_multiplied(_norm_ratio), max_norm_growth, scale)


def sign(scale: ArrayLike = 1.0) -> optax.GradientTransformation:
    """scale sign(R), entry by entry (FRUGAL)."""

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        del params
        return jax.tree.map(lambda x: jnp.asarray(scale, x.dtype) * jnp.sign(x), updates)

    return optax.stateless(update)


def error_feedback(b1: ArrayLike) -> Residual:
    """Drop the residual from this update and add it to the next gradient (LDAdam).

    With it goes what the momentum lost in the change of basis::

      E = G - S g + b1 / (1 - b1) (S_old M_old - S M)

    where M_old and M are the first moment before and after the transport. State: mn numbers.

    Args:
      b1: of the inner optimizer.
    """

    def init(params: optax.Params) -> ErrorFeedbackState:
        return ErrorFeedbackState(jax.tree.map(jnp.zeros_like, params))

    def error(outside: Array, basis: Array, old_basis: Array, moment: Array, old_moment: Array) -> Array:
        decay = jnp.asarray(b1, outside.dtype)
        before, after = (
            lift(s.astype(outside.dtype), x.astype(outside.dtype))
            for s, x in ((old_basis, old_moment), (basis, moment))
        )
        return outside + decay / (1 - decay) * (before - after)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, ErrorFeedbackState]:
        del state, params
        split = extra_args["split"]
        moments = (first_moment(x, b1) for x in (split.inner_state, split.previous_inner_state))
        errors = _map_present(error, updates, split.basis, split.previous_basis, *moments)
        return jax.tree.map(jnp.zeros_like, updates), ErrorFeedbackState(errors)

    return Residual(optax.GradientTransformationExtraArgs(init, update), feedback=_errors)


def recovery_scaling() -> optax.GradientTransformationExtraArgs:
    """Scale each column as the inner optimizer scaled its projection (eq. 9)::

      L_i = (||N_i|| / ||g_i||) R_i

    The factor is 0 where ||g_i|| is negligible: momentum may move such a column, but says nothing
    about its scale.
    """
    return _multiplied(recovery_factors)


def norm_growth_limit(max_norm_growth: ArrayLike) -> optax.GradientTransformation:
    """Let the Frobenius norm of each matrix grow by at most this factor a step (eq. 10)::

      l = ||L||_F;  L <- min(1, zeta p / l) L if p > 0;  p <- ||L||_F after that

    p is not reset at refreshes, and p = 0 means "not set", so that a first gradient of zero does
    not hold the rest down.

    Args:
      max_norm_growth: zeta; infinity limits nothing.
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
    """R times factors, a function of what the inner optimizer was given and of what it returned."""

    def multiplied(outside: Array, projected: Array, direction: Array) -> Array:
        return (factors_of(projected, direction) * outside).astype(outside.dtype)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params
        split = extra_args["split"]
        return _map_present(multiplied, updates, split.projected, split.direction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


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


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _map_present(f: Callable[..., Array], updates: PyTree, *trees: PyTree) -> PyTree:
    """`jax.tree.map` over the leaves that `optax.masked` or `optax.partition` left in `updates`."""

    def of_present(x: Any, *others: Any) -> Any:
        return x if _is_masked(x) else f(x, *others)

    return jax.tree.map(of_present, updates, *trees, is_leaf=_is_masked)


def _errors(state: PyTree) -> PyTree | None:
    """The sum of the errors in every `ErrorFeedbackState` of a state; None if there is none."""

    def is_feedback(x: Any) -> bool:
        return isinstance(x, ErrorFeedbackState)

    def add(a: Any, b: Any) -> Any:
        if _is_masked(a) or _is_masked(b):
            return b if _is_masked(a) else a
        return a + b

    states = [x for x in jax.tree.leaves(state, is_leaf=is_feedback) if is_feedback(x)]
    errors = [x.error for x in states]
    sum_of = functools.partial(jax.tree.map, add, is_leaf=_is_masked)
    return functools.reduce(sum_of, errors) if errors else None
