"""What a rule is.

Members: SubspaceRule, Refresh, stateless_rule, no_state, turning, kept_unless_finite,
finite_or_noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key


class Refresh(NamedTuple):
    """What a rule may read at a refresh of one leaf."""

    key: Key[Array, ""]  # a function of (key, refresh index, path of the leaf)
    count: Int[Array, ""]  # type: ignore[assignment]  # updates before this one: t - 1
    grad: Float[Array, "*b m n"]
    basis: Float[Array, "*b m r"]  # the old one: its dtype and shape are those of the new one
    inner_state: Any  # the inner optimizer's state, with this leaf in place of each tree of leaves
    rule_state: Any
    first: bool = False  # known when tracing: there is no basis yet, and the old one is zero


class SubspaceRule(NamedTuple):
    """A rule: `init(basis_shape, dtype) -> rule_state`, `update(refresh) -> (basis,
    rule_state)`.
    """

    init: Callable[[tuple[int, ...], Any], Any]
    update: Callable[[Refresh], tuple[Float[Array, "*b m r"], Any]]
    orthonormal: bool = True  # S^T S = I, so that the norm outside the subspace follows from those inside
    keyed: bool = False  # reads nothing but the key, so that the basis need not be stored
    moves: bool = False  # starts from the old basis, so that another rule must make the first


def stateless_rule(
    f: Callable[[Refresh], Float[Array, "*b m r"]],
    *,
    orthonormal: bool = True,
    keyed: bool = False,
    moves: bool = False,
) -> SubspaceRule:
    """The rule of a pure function of the refresh to the new basis."""

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        return f(refresh), refresh.rule_state

    return SubspaceRule(no_state, update, orthonormal, keyed, moves)


def no_state(basis_shape: tuple[int, ...], dtype: Any) -> optax.EmptyState:
    """The `init` of a rule without state."""
    del basis_shape, dtype
    return optax.EmptyState()


def turning(name: str, directions: int) -> Callable[[tuple[int, ...], Any], optax.EmptyState]:
    """The `init` of a rule without state that turns some directions of a basis out of its subspace:
    an error if there is no room for as many as the argument `name` says.
    """

    def init(basis_shape: tuple[int, ...], dtype: Any) -> optax.EmptyState:
        m, r = basis_shape[-2:]
        if directions > min(r, m - r):
            raise ValueError(
                f"{name} is {directions}, but a subspace of dimension {r} in {m} dimensions can turn from 1 to "
                f"min(r, m - r) = {min(r, m - r)} of its directions. Change {name}, or rank."
            )
        return no_state(basis_shape, dtype)

    return init


def kept_unless_finite(refresh: Refresh, new: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The new basis where it and the gradient it was made from are finite, else the old one, if
    there is one.
    """
    if refresh.first:
        return new
    finite = [jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True) for x in (refresh.grad, new)]
    return jnp.where(finite[0] & finite[1], new, refresh.basis)


def finite_or_noise(refresh: Refresh) -> Float[Array, "*b m n"]:
    """The gradient, or a Gaussian in place of a matrix that is not finite: a factorisation must not
    see one.
    """
    finite = jnp.all(jnp.isfinite(refresh.grad), axis=(-2, -1), keepdims=True)
    return jnp.where(finite, refresh.grad, jax.random.normal(refresh.key, refresh.grad.shape, refresh.grad.dtype))
