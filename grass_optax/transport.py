"""Axis 2: what do the inner moments become when the basis moves?

A transport is a pure function `(inner_state, rotation) -> inner_state`, where `rotation` is the
tree of Q = S_new^T S_old (..., r, r). One that depends on the constants of the inner optimizer is
made by a factory that is told what the inner was told. What the states of inner optimizers hold is
known in `inner_states`: those of Adam, Lion, momentum (`optax.trace`, `optax.ema`) and Muon, and
chains of them.

Members: keep, reset, first_moment_only, rotate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._checks import one_of
from grass_optax._inner.states import cleared, map_moments
from grass_optax._linalg import grassmann

Transport = Callable[[Any, Any], Any]

COMPLETIONS = ("none", "isotropic")


def keep(inner_state: Any, rotation: Any) -> Any:
    """The moments stay as numbers, although their coordinates now mean other directions (GaLore,
    Fira).
    """
    del rotation
    return inner_state


def reset(inner_state: Any, rotation: Any) -> Any:
    """The moments and their count start again from zero (FRUGAL)."""
    del rotation
    return cleared(inner_state)


def first_moment_only() -> Transport:
    """M' = Q M, and the second moment stays (GoLore, SUMO)."""

    def transport(inner_state: Any, rotation: Any) -> Any:
        def first(moment: Any) -> Any:
            return jax.tree.map(_rotated, rotation, moment)

        return map_moments(first, lambda state: state._replace(mu=first(state.mu)), inner_state)

    return transport


def rotate(b1: ArrayLike, b2: ArrayLike, completion: str = "none") -> Transport:
    """Adam's moments as estimates of moments of the gradient's coordinates, expressed in the new
    basis (eq. 7-8, LDAdam).

    With Mh = M / (1 - b1^(t-1)) and Vh = V / (1 - b2^(t-1)):
      M' = Q M
      V' = (1 - b2^(t-1)) |Q^{o2} (Vh - Mh^{o2}) + (Q Mh)^{o2}|
    where ^{o2} and |.| are elementwise. Q = I gives (M, V) back. Of an inner optimizer with a first
    moment alone that is M' = Q M. b1 and b2 must be those of the inner Adam, and its second moment
    one of squares: the state of `optax.scale_by_adamax` looks the same and is not.

    After a jump the rows of Q^{o2} sum to about r/m, so that V' keeps only that part of the second
    moment and steps are too large until it has recovered; `completion="isotropic"` adds what is
    missing as if the gradient outside the old subspace were like that inside it: (1 - b2^(t-1))
    max(1 - rowsum(Q^{o2}), 0) mean(Vh), the mean over rows, per column.
    """
    one_of("completion", completion, COMPLETIONS)

    def transport(inner_state: Any, rotation: Any) -> Any:
        def first(moment: Any) -> Any:
            return jax.tree.map(_rotated, rotation, moment)

        def adam(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
            def second(q: Array, mu: Array, new_mu: Array, nu: Array) -> Array:
                count = jnp.asarray(state.count, q.dtype)
                correction1, correction2 = (1 - jnp.asarray(b, q.dtype) ** count for b in (b1, b2))
                old_hat, new_hat = (x.astype(q.dtype) / correction1 for x in (mu, new_mu))
                nu_hat = nu.astype(q.dtype) / correction2
                moved = _second_moment(q, old_hat, new_hat, nu_hat)
                if completion == "isotropic":
                    moved = moved + _isotropic(q, nu_hat)
                # One that overflowed stays infinite, and what it moves stays 0: inf - inf would
                # make it NaN.
                return jnp.where(jnp.isnan(moved), jnp.inf, correction2 * moved).astype(nu.dtype)

            mu = first(state.mu)
            return state._replace(mu=mu, nu=jax.tree.map(second, rotation, state.mu, mu, state.nu))

        return map_moments(first, adam, inner_state)

    return transport


def _rotated(q: Float[Array, "*b r r"], moment: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    return grassmann.matmul(q, moment.astype(q.dtype)).astype(moment.dtype)


def _second_moment(
    q: Float[Array, "*b r r"],
    mu_hat: Float[Array, "*b r n"],
    new_mu_hat: Float[Array, "*b r n"],
    nu_hat: Float[Array, "*b r n"],
) -> Float[Array, "*b r n"]:
    """|Q^{o2} (Vh - Mh^{o2}) + (Q Mh)^{o2}|, given Q Mh: the variance moves with the squares, the
    mean as a vector.
    """
    variance = nu_hat - jnp.square(mu_hat)
    return jnp.abs(grassmann.matmul(jnp.square(q), variance) + jnp.square(new_mu_hat))


def _isotropic(q: Float[Array, "*b r r"], nu_hat: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    missing = jnp.maximum(1 - jnp.sum(jnp.square(q), axis=-1, keepdims=True), 0)
    return missing * jnp.mean(nu_hat, axis=-2, keepdims=True)
