"""Keep the leading directions of the gradients and draw the others (Alice)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import positive
from grass_optax._inner.states import parts_of_chain
from grass_optax._inner.transforms import averaged
from grass_optax._linalg.dtypes import wide
from grass_optax._linalg.jacobi import eigenvectors
from grass_optax._linalg.orthonormal import orthonormalize
from grass_optax._linalg.products import lift, matmul, project, rotation, to_tangent, transpose
from grass_optax._linalg.spectral import range_basis
from grass_optax.subspaces.moving import with_some_of
from grass_optax.subspaces.rule import Refresh, SubspaceRule, kept_unless_finite, no_state


class GramState(NamedTuple):
    """State of `averaged_gram`.

    Attributes:
      gram: (..., r, r) per leaf.
    """

    gram: PyTree


def averaged_gram(decay: ArrayLike) -> optax.GradientTransformation:
    """Remember in which directions of the subspace gradients pointed, for `leading_and_random`.

    Put it first in the chain inside the subspace. With g what it is given, and passes on::

      K <- decay K + (1 - decay) g g^T

    Args:
      decay: the decay rate, such as 0.999.

    Returns:
      An Optax transformation of (..., r, n), whose state is a `GramState`.

    Examples:
      >>> tx, grad = subspaces.averaged_gram(0.5), jnp.array([[1.0, 1.0], [2.0, 0.0]])
      >>> tx.update(grad, tx.init(grad))[1].gram
      Array([[1., 1.],
             [1., 2.]], dtype=float32)

    References:
      Gong et al., `Alice <https://arxiv.org/abs/2502.07752>`_, 2025
    """

    def init(params: optax.Params) -> GramState:
        return GramState(jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], x.shape[-2]), wide(x.dtype)), params))

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, GramState]:
        del params

        def of_leaf(gram: Array, grad: Array) -> Array:
            grad = grad.astype(gram.dtype)
            return averaged(matmul(grad, transpose(grad)), gram, decay)

        return updates, GramState(jax.tree.map(of_leaf, state.gram, updates))

    return optax.GradientTransformation(init, update)


def leading_and_random(leading: int, decay: ArrayLike | None = None) -> SubspaceRule:
    """The leading directions, and random ones outside them (Alice's tracking and switching).

    One step of subspace iteration from the old basis, on what is remembered of earlier gradients
    and this one, with K of `averaged_gram`. Of its eigenvectors the first l are kept, and S' has
    r - l random directions of their complement beside them::

      Q = decay S K S^T + (1 - decay) G G^T
      U = an orthonormal basis of (Q + delta I) S,   W = the eigenvectors of U^T Q U
      S' = [the columns of U W of the l largest eigenvalues, r - l random ones]

    delta = 1e-4 ||Q S||_F / sqrt(r) keeps S where Q has a lower rank. The first basis takes its
    leading directions from `range_finder`, as there is none to start from.

    Args:
      leading: l, at most r.
      decay: that of `averaged_gram`, which must be in the inner optimizer. None remembers nothing,
        Q = G G^T.

    Returns:
      A rule without state; its S (m, r) is orthonormal.

    Raises:
      ValueError: when initialised, if `leading` is larger than the rank.
      TypeError: at a refresh, if the inner optimizer has no `averaged_gram` and `decay` is given.

    Examples:
      >>> grad = jnp.array([[3.0, 0.0], [0.0, 0.1], [0.0, 0.0]])
      >>> at = subspaces.Refresh(jax.random.key(0), 1, grad, jnp.eye(3, 2), None, None)
      >>> basis = subspaces.leading_and_random(leading=1).update(at)[0]
      >>> jnp.abs(basis[:, 0]).round(2)  # the other column is random, and orthogonal to it
      Array([1., 0., 0.], dtype=float32)

    References:
      Gong et al., `Alice <https://arxiv.org/abs/2502.07752>`_, 2025
    """
    leading = positive("leading", leading)

    def init(basis_shape: tuple[int, int], dtype: Any) -> optax.EmptyState:
        if leading > basis_shape[1]:
            raise ValueError(
                f"leading is {leading}, but a subspace has {basis_shape[1]} directions. Lower leading, or raise rank."
            )
        return no_state(basis_shape, dtype)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        grad, (m, rank) = refresh.grad.astype(refresh.basis.dtype), refresh.basis.shape
        first_key, random_key = jax.random.split(refresh.key)
        if refresh.first:
            directions = range_basis(first_key, grad, rank)
        else:
            directions = _iterated(refresh.basis, grad, None if decay is None else _gram(refresh.inner_state), decay)
        new = directions[:, :leading]
        if leading < rank:
            noise = jax.random.normal(random_key, (m, rank - leading), grad.dtype)
            new = jnp.concatenate([new, orthonormalize(to_tangent(new, noise))], axis=-1)
        return kept_unless_finite(refresh, new), refresh.rule_state

    return SubspaceRule(init=init, update=update)


def _iterated(
    basis: Float[Array, "m r"],
    grad: Float[Array, "m n"],
    gram: Float[Array, "r r"] | None,
    decay: ArrayLike | None,
) -> Float[Array, "m r"]:
    """U W: a step of subspace iteration, then eigenvectors in it."""
    weight = jnp.asarray(0.0 if decay is None else decay, grad.dtype)
    gram = jnp.zeros((basis.shape[-1],) * 2, grad.dtype) if gram is None else gram.astype(grad.dtype)
    # Q over the square of what is largest: squares of what is small would vanish.
    largest = jnp.maximum(jnp.max(jnp.abs(grad)), jnp.sqrt(jnp.max(jnp.abs(gram))))
    scale = jnp.where(largest > 0, 1 / jnp.where(largest > 0, largest, 1), 0)
    grad, gram = scale * grad, scale * (scale * gram)

    def of_both(from_grad: Array, from_gram: Array) -> Array:
        return (1 - weight) * from_grad + weight * from_gram

    inside = project(basis, grad)
    power = of_both(matmul(grad, transpose(inside)), lift(basis, gram))
    new = orthonormalize(with_some_of(power, basis))
    inside, turn = project(new, grad), rotation(new, basis)
    square = of_both(matmul(inside, transpose(inside)), matmul(turn, matmul(gram, transpose(turn))))
    return matmul(new, eigenvectors(square))


def _gram(inner_state: PyTree) -> Float[Array, "r r"]:
    for state in parts_of_chain(inner_state):
        if isinstance(state, GramState):
            return state.gram
    raise TypeError(
        "leading_and_random reads what averaged_gram remembers, and the inner optimizer does not have it. Give "
        "inner=optax.chain(subspaces.averaged_gram(decay), ...), or leave decay out."
    )
