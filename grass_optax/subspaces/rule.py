"""What a rule is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree


class Refresh(NamedTuple):
    """What a rule may read at a refresh of one matrix.

    Attributes:
      key: a function of the optimizer's key, the refresh and the matrix.
      count: the number of updates before this one, t - 1.
      grad: G (m, n), m <= n.
      basis: the old S (m, r); its shape and type are those of the new one.
      inner_state: the inner optimizer's state, with the arrays of this matrix only.
      rule_state: what the rule returned at the last refresh.
      first: whether there is no basis yet, and the old one is zero. Known when tracing.
    """

    key: Key[Array, ""]
    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count
    grad: Float[Array, "m n"]
    basis: Float[Array, "m r"]
    inner_state: PyTree
    rule_state: PyTree
    first: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubspaceRule:
    """Where the basis of a matrix goes at a refresh.

    Attributes:
      init: `init(basis_shape, dtype) -> rule_state`, for one matrix: basis_shape is (m, r).
      update: `update(refresh) -> (basis, rule_state)`, for one matrix. The refresh maps it over
        stacks, so it must not look at other matrices. The basis is finite whatever the gradient is.
      orthonormal: whether S^T S = I, so that the norms outside the subspace follow from those
        inside.
      keyed: whether it reads only the key, so that the basis need not be stored.
      moves: whether it starts from the old basis, so that another rule must make the first one.
    """

    init: Callable[[tuple[int, int], Any], PyTree]
    update: Callable[[Refresh], tuple[Float[Array, "m r"], PyTree]]
    orthonormal: bool = True
    keyed: bool = False
    moves: bool = False


def stateless_rule(
    f: Callable[[Refresh], Float[Array, "m r"]],
    *,
    orthonormal: bool = True,
    keyed: bool = False,
    moves: bool = False,
) -> SubspaceRule:
    """Make a rule from a pure function of the refresh to the new basis.

    Examples:
      >>> def first_rows(refresh):
      ...     return jnp.eye(*refresh.basis.shape, dtype=refresh.basis.dtype)
      >>> subspaces.stateless_rule(first_rows).orthonormal
      True
    """

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        return f(refresh), refresh.rule_state

    return SubspaceRule(init=no_state, update=update, orthonormal=orthonormal, keyed=keyed, moves=moves)


def no_state(basis_shape: tuple[int, int], dtype: Any) -> optax.EmptyState:
    """The `init` of a rule without state."""
    del basis_shape, dtype
    return optax.EmptyState()


def turning(name: str, directions: int) -> Callable[[tuple[int, int], Any], optax.EmptyState]:
    """The `init` of a rule without state that turns some directions out of the subspace.

    Raises:
      ValueError: raised by that function, if fewer directions can turn than the argument `name`
        asks for.
    """

    def init(basis_shape: tuple[int, int], dtype: Any) -> optax.EmptyState:
        m, r = basis_shape
        most = min(r, m - r)
        if directions > most:
            raise ValueError(
                f"{name} is {directions}, but a subspace of dimension {r} in {m} dimensions can "
                f"turn at most min(r, m - r) = {most} of its directions. Lower {name}, or change "
                "rank."
            )
        return no_state(basis_shape, dtype)

    return init


def kept_unless_finite(refresh: Refresh, new: Float[Array, "m r"]) -> Float[Array, "m r"]:
    """The new basis if it and the gradient are finite, else the old one, if there is one."""
    if refresh.first:
        return new
    finite = jnp.all(jnp.isfinite(refresh.grad)) & jnp.all(jnp.isfinite(new))
    return jnp.where(finite, new, refresh.basis)


def finite_or_noise(refresh: Refresh) -> Float[Array, "m n"]:
    """The gradient, or a Gaussian if it is not finite: a factorisation must not see inf or NaN."""
    noise = jax.random.normal(refresh.key, refresh.grad.shape, refresh.grad.dtype)
    return jnp.where(jnp.all(jnp.isfinite(refresh.grad)), refresh.grad, noise)
