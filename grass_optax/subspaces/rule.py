"""What a rule is, and what rules share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from grass_optax.bases import BasisLike

Form: TypeAlias = Callable[[tuple[int, int], Any], BasisLike]


class Refresh(NamedTuple):
    """What a rule may read at a refresh of one matrix.

    Attributes:
      key: a function of the optimizer's key, the refresh and the matrix.
      count: the number of updates before this one, t - 1.
      grad: G (m, n), m <= n.
      basis: the old S (m, r); the new one is of the same form, shapes and types.
      inner_state: the inner optimizer's state, with the arrays of this matrix only.
      rule_state: what the rule returned at the last refresh.
      first: whether there is no basis yet, and the old one is `form`'s. Known when tracing.
    """

    key: Key[Array, ""]
    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count
    grad: Float[Array, "m n"]
    basis: BasisLike
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
      form: `form(basis_shape, dtype) -> basis`, any basis of the form that `update` returns
        (`bases`); an array by default.
      orthonormal: whether S^T S = I, so that the norms outside the subspace follow from those
        inside.
      keyed: whether it reads only the key, so that the basis need not be stored.
      moves: whether it starts from the old basis, so that another rule must make the first one.
    """

    init: Callable[[tuple[int, int], Any], PyTree]
    update: Callable[[Refresh], tuple[BasisLike, PyTree]]
    form: Form = jnp.zeros
    orthonormal: bool = True
    keyed: bool = False
    moves: bool = False

    def forms(self, batch: tuple[int, ...], basis_shape: tuple[int, int], dtype: Any) -> BasisLike:
        """Bases of the rule's form, one for each matrix of a stack."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), self.form(basis_shape, dtype))


def stateless_rule(
    f: Callable[[Refresh], BasisLike],
    *,
    form: Form = jnp.zeros,
    orthonormal: bool = True,
    keyed: bool = False,
    moves: bool = False,
) -> SubspaceRule:
    """Make a rule from a pure function of the refresh to the new basis.

    Args:
      f: a function of a `Refresh` to the new basis (m, r), of the form of the old one.
      form: see `SubspaceRule`.
      orthonormal: whether S^T S = I.
      keyed: whether `f` reads nothing but the key and shapes.
      moves: whether `f` starts from the old basis.

    Returns:
      A `SubspaceRule` whose state is empty.

    Examples:
      >>> def largest_row(refresh):
      ...     i = jnp.argmax(jnp.sum(jnp.square(refresh.grad), axis=-1))
      ...     return jax.nn.one_hot(i[None], refresh.basis.shape[0], axis=0)
      >>> rule = subspaces.stateless_rule(largest_row)
      >>> refresh = subspaces.Refresh(
      ...     key=jax.random.key(0), count=jnp.int32(0), grad=jnp.diag(jnp.array([1.0, 3.0, 2.0])),
      ...     basis=jnp.zeros((3, 1)), inner_state=None, rule_state=optax.EmptyState(), first=True,
      ... )
      >>> rule.update(refresh)
      (Array([[0.],
             [1.],
             [0.]], dtype=float32), EmptyState())
    """

    def update(refresh: Refresh) -> tuple[BasisLike, PyTree]:
        return f(refresh), refresh.rule_state

    return SubspaceRule(init=no_state, update=update, form=form, orthonormal=orthonormal, keyed=keyed, moves=moves)


def no_state(basis_shape: tuple[int, int], dtype: Any) -> optax.EmptyState:
    """The `init` of a rule without state.

    Args:
      basis_shape: (m, r).
      dtype: of the basis.

    Returns:
      An empty state.

    Examples:
      >>> subspaces.no_state((4, 2), jnp.float32)
      EmptyState()
    """
    del basis_shape, dtype
    return optax.EmptyState()


def turning(name: str, directions: int) -> Callable[[tuple[int, int], Any], optax.EmptyState]:
    """The `init` of a rule without state that moves some directions out of the subspace.

    Raises:
      ValueError: raised by that function, if fewer directions can move than the argument `name`
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


def kept_unless_finite(refresh: Refresh, new: BasisLike) -> BasisLike:
    """The new basis if it and the gradient are finite, else the old one, if there is one.

    Args:
      refresh: what the rule reads.
      new: the basis (m, r) that the rule would return.

    Returns:
      A basis (m, r). At the first refresh it is `new` whatever it holds.

    Examples:
      >>> grad = jnp.full((2, 3), jnp.nan)
      >>> step = subspaces.Refresh(jax.random.key(0), jnp.int32(1), grad, jnp.eye(2, 1), None, None)
      >>> subspaces.kept_unless_finite(step, jnp.ones((2, 1))).T
      Array([[1., 0.]], dtype=float32)
    """
    if refresh.first:
        return new
    finite = functools.reduce(
        jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in (refresh.grad, *jax.tree.leaves(new)))
    )
    return jax.tree.map(lambda x, old: jnp.where(finite, x, old), new, refresh.basis)


def finite_or_noise(refresh: Refresh) -> Float[Array, "m n"]:
    """The gradient, or a Gaussian if it is not finite.

    A factorisation must not see a non-finite matrix.

    Args:
      refresh: what the rule reads.

    Returns:
      A finite matrix (m, n).

    Examples:
      >>> grad = jnp.full((2, 3), jnp.nan)
      >>> step = subspaces.Refresh(jax.random.key(0), jnp.int32(1), grad, jnp.eye(2, 1), None, None)
      >>> bool(jnp.all(jnp.isfinite(subspaces.finite_or_noise(step))))
      True
    """
    noise = jax.random.normal(refresh.key, refresh.grad.shape, refresh.grad.dtype)
    return jnp.where(jnp.all(jnp.isfinite(refresh.grad)), refresh.grad, noise)
