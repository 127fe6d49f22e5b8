"""What a rule is.

Members: SubspaceRule, Refresh, stateless_rule, no_state, kept_unless_finite, positive.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

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
    """A rule: `init(basis_shape, dtype) -> rule_state`, `update(refresh) -> (basis, rule_state)`."""

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


def kept_unless_finite(refresh: Refresh, new: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The new basis where it and the gradient it was made from are finite, else the old one, if there is one."""
    if refresh.first:
        return new
    finite = [jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True) for x in (refresh.grad, new)]
    return jnp.where(finite[0] & finite[1], new, refresh.basis)


def positive(name: str, value: Any) -> int:
    """The value as an int of at least 1, or an error that names it."""
    try:
        value = operator.index(value)
    except TypeError as error:
        raise ValueError(
            f"{name} is {value!r}; it shapes the computation, so it must be a Python integer. "
            "Under optax.inject_hyperparams name it in static_args."
        ) from error
    if value <= 0:
        raise ValueError(f"{name} is {value}; give 1 or more.")
    return int(value)
