"""Rules that choose between two rules at a refresh, by what is known of the time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PyTree

from grass_optax._checks import positive
from grass_optax.bases import BasisLike
from grass_optax.subspaces.rule import Refresh, SubspaceRule


def switch(first: SubspaceRule, then: SubspaceRule, start: ArrayLike) -> SubspaceRule:
    """Use the rule `first` for the first `start` updates, and `then` afterwards (GoLore).

    Args:
      first, then: rules; both are initialised at the beginning.
      start: the number of updates from which on a refresh uses `then`.

    Returns:
      A rule whose state is the pair of the states of both; its S (m, r) is theirs.

    Raises:
      ValueError: when initialised, if their bases are of different forms.

    Examples:
      >>> rule = subspaces.switch(subspaces.svd(), subspaces.random_jump(), start=200)
      >>> rule.init((4, 2), jnp.float32)
      (EmptyState(), EmptyState())

    References:
      He et al., `GoLore <https://arxiv.org/abs/2410.11289>`_, 2024
    """

    def init(basis_shape: tuple[int, int], dtype: Any) -> PyTree:
        _require_one_form("switch", first, then, basis_shape, dtype)
        return first.init(basis_shape, dtype), then.init(basis_shape, dtype)

    def update(refresh: Refresh) -> tuple[BasisLike, PyTree]:
        return _one_of(refresh.count < start, first, then, refresh)

    return _rule_of_two(first, then, init, update)


def interleave(usual: SubspaceRule, other: SubspaceRule, every: int) -> SubspaceRule:
    """Use the rule `other` at every `every`-th refresh, and `usual` at those between.

    A walk with occasional jumps, for example. Refreshes are counted from the first that this rule
    makes; a first basis of another rule is not one of them.

    Args:
      usual, other: rules; both are initialised at the beginning.
      every: the number of refreshes from one of `other` to the next, the first of which is the
        `every`-th.

    Returns:
      A rule whose state is the number of its refreshes and the states of both; its S (m, r) is
      theirs.

    Raises:
      ValueError: at once, if `every` is not positive; when initialised, if the bases of the two are
        of different forms.

    Examples:
      A basis that stays, and jumps at every third refresh:

      >>> rule = subspaces.interleave(subspaces.frozen(), subspaces.random_jump(), every=3)
      >>> state, basis, moved = rule.init((4, 2), jnp.float32), jnp.eye(4, 2), []
      >>> for j in range(6):
      ...     at = subspaces.Refresh(jax.random.key(j), j, jnp.ones((4, 3)), basis, None, state)
      ...     new, state = rule.update(at)
      ...     moved.append(bool(jnp.any(new != basis)))
      ...     basis = new
      >>> moved
      [False, False, True, False, False, True]
    """
    every = positive("every", every)

    def init(basis_shape: tuple[int, int], dtype: Any) -> PyTree:
        _require_one_form("interleave", usual, other, basis_shape, dtype)
        return jnp.zeros([], jnp.int32), (usual.init(basis_shape, dtype), other.init(basis_shape, dtype))

    def update(refresh: Refresh) -> tuple[BasisLike, PyTree]:
        refreshes: Int[Array, ""] = refresh.rule_state[0] + 1
        of_two = refresh._replace(rule_state=refresh.rule_state[1])
        basis, states = _one_of(refreshes % every != 0, usual, other, of_two)
        return basis, (refreshes % every, states)

    return _rule_of_two(usual, other, init, update)


def _one_of(
    takes_first: Bool[Array, ""], first: SubspaceRule, then: SubspaceRule, refresh: Refresh
) -> tuple[BasisLike, PyTree]:
    """What one of two rules returns, whose states are the pair in the refresh."""
    old, new = refresh.rule_state

    def by_first() -> tuple[BasisLike, PyTree]:
        basis, state = first.update(refresh._replace(rule_state=old))
        return basis, (state, new)

    def by_then() -> tuple[BasisLike, PyTree]:
        basis, state = then.update(refresh._replace(rule_state=new))
        return basis, (old, state)

    return lax.cond(takes_first, by_first, by_then)


def _rule_of_two(
    first: SubspaceRule,
    then: SubspaceRule,
    init: Callable[[tuple[int, int], Any], PyTree],
    update: Callable[[Refresh], tuple[BasisLike, PyTree]],
) -> SubspaceRule:
    return SubspaceRule(
        init=init,
        update=update,
        form=then.form,
        orthonormal=first.orthonormal and then.orthonormal,
        keyed=False,  # which of the two drew a basis depends on the time, whatever they read
        moves=first.moves or then.moves,
    )


def _require_one_form(
    name: str, first: SubspaceRule, then: SubspaceRule, basis_shape: tuple[int, int], dtype: Any
) -> None:
    forms = [jax.eval_shape(functools.partial(rule.form, basis_shape, dtype)) for rule in (first, then)]
    if forms[0] != forms[1]:
        raise ValueError(
            f"the rules of {name} make bases of different forms, {forms[0]} and {forms[1]}. Give two rules whose bases "
            "are of one form."
        )
