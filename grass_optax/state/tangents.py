"""Where the subspaces would have to go, and how far they went.

Both are questions about subspaces and not about their bases. So a basis that is not orthonormal, as
a Gaussian one is not, is replaced by the orthonormal basis of its span.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import wide
from grass_optax._linalg.geodesics import angles_of
from grass_optax._linalg.norms import frobenius_norm, over_largest
from grass_optax._linalg.orthonormal import orthonormalize
from grass_optax._linalg.products import lift, matmul, project, transpose
from grass_optax._linalg.spectral import leading_singular_triplets
from grass_optax.bases import Basis
from grass_optax.state.diagnostics import SplitLeaf, bases_of, leaves_of, ratio


class ErrorTangent(NamedTuple):
    """The tangent of the subspace error of every matrix of a leaf.

    Attributes:
      singular_values: its leading ones (..., k), the largest first.
      norm: its Frobenius norm (...).
      relative: norm / ||G||^2 (...), between 0 and 1.
    """

    singular_values: Float[Array, "*b k"]
    norm: Float[Array, "*b"]
    relative: Float[Array, "*b"]


class SubspaceChange(NamedTuple):
    """How far the subspace of every matrix of a leaf went.

    Attributes:
      angles: the principal angles (..., r) between the two subspaces, in radians, the smallest
        first.
      overlap: the mean square of their cosines (...): 1 for the same subspace, about r/m for a
        random one, 0 for an orthogonal one.
    """

    angles: Float[Array, "*b r"]
    overlap: Float[Array, "*b"]


def error_tangent(state: optax.OptState, grads: optax.Updates, k: int = 20) -> dict[str, ErrorTangent]:
    """Return the tangent of the subspace error, which Figures 2 and 9 of the paper show.

    It is the derivative of the error ||S g - G||^2, g = S^T G, by the subspace (SubTrack-Grad,
    eq. 3 to 5)::

      -2 (G - S g) g^T

    It is quadratic in G, so it falls with the gradient: in float32 `norm` and `singular_values`
    are infinite for ||G|| far above 1e19, and 0 far below 1e-19. `relative` does not depend on the
    size of G. It is 0 where the subspace cannot be better at once, as the leading singular vectors
    cannot, and at most 1. All are NaN if G is not finite.

    Args:
      state: the state of a method, or of any transformation around `split_by_subspace`.
      grads: a tree like params, as `captured_energy` takes it.
      k: the number of singular values, at most r. They are found one after the other, in products
        only; one below 1e-3 of the largest may be given as 0.

    Returns:
      A dict from the path of each split leaf to its `ErrorTangent`. It works under `jax.jit`.

    Raises:
      ValueError: as `captured_energy`.

    Examples:
      >>> grads = {"w": jnp.array([[2.0, 1.0], [1.0, 1.0]])}
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.identity(), transport.keep(), None,
      ...     rank=1, update_proj_gap=1,
      ... )
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> tangent = grass_optax.error_tangent(state, grads)["w"]
      >>> round(float(tangent.norm), 4), round(float(tangent.relative), 4)
      (6.0, 0.8571)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025; Rajabi et al., `SubTrack-Grad
      <https://arxiv.org/abs/2502.01586>`_, 2025
    """
    return {leaf.path: _tangent(leaf, min(k, leaf.basis.rank)) for leaf in leaves_of(state, grads)}


def subspace_change(before: optax.OptState, after: optax.OptState) -> dict[str, SubspaceChange]:
    """Return the principal angles between the subspaces of two states, and their overlap.

    Such states are those before and after a refresh. With orthonormal S and S' the angles are (eq.
    7 has the rotation)::

      theta,  cos(theta) the singular values of S'^T S;  overlap = ||S'^T S||_F^2 / r

    A state before its first update has no subspaces: its overlap with any is 0. Under `jax.jit` the
    angles cost nothing if only the overlap is returned.

    Args:
      before, after: two states of one transformation.

    Returns:
      A dict from the path of each split leaf to its `SubspaceChange`. It works under `jax.jit`.

    Raises:
      ValueError: a state has no split, or has bases that are drawn again at each step; the states
        are of different leaves.

    Examples:
      >>> grads = {"w": jnp.ones((4, 8))}
      >>> tx = grass_optax.scale_by_grassjump(rank=2, update_proj_gap=2)
      >>> _, first = tx.update(grads, tx.init(grads))
      >>> _, second = tx.update(grads, first)  # no refresh
      >>> round(float(grass_optax.subspace_change(first, second)["w"].overlap), 4)
      1.0

    References:
      Björck and Golub, Numerical Methods for Computing Angles Between Linear Subspaces, 1973
    """
    old, new = (
        {path: _orthonormal(basis, layout.batch) for path, _, layout, basis in bases_of(state)}
        for state in (before, after)
    )
    if old.keys() != new.keys():
        raise ValueError(f"the states are of the leaves {sorted(old)} and {sorted(new)}. Give two states of one run.")
    return {path: _change(old[path], new[path]) for path in new}


def _tangent(leaf: SplitLeaf, k: int) -> ErrorTangent:
    # Of G / ||G||.
    scaled, largest = over_largest(leaf.grad)
    size = frobenius_norm(scaled)
    basis, grad = _orthonormal(leaf.basis, scaled.shape[:-2]), ratio(scaled, size[..., None, None])
    inside = project(basis, grad)
    tangent = -2 * matmul(grad - lift(basis, inside), transpose(inside))
    relative, norm = frobenius_norm(tangent), size * largest
    _, values, _ = leading_singular_triplets(tangent, k)
    values = -jnp.sort(-values, axis=-1)
    return ErrorTangent(values * norm[..., None] * norm[..., None], relative * norm * norm, relative)


def _change(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> SubspaceChange:
    inside = project(first, second)
    outside = second - lift(first, inside)
    outside = outside - lift(first, project(first, outside))  # see `geodesics`
    overlap = jnp.mean(jnp.sum(jnp.square(inside), axis=-2), axis=-1)
    return SubspaceChange(angles_of(inside, outside), overlap)


def _orthonormal(basis: Basis, batch: tuple[int, ...]) -> Float[Array, "*b m r"]:
    """An orthonormal basis of each matrix of a stack: a fold has one for all of them."""
    matrix = basis.to_matrix()
    matrix = orthonormalize(matrix.astype(wide(matrix.dtype)))
    return jnp.broadcast_to(matrix, (*batch, *matrix.shape[-2:]))
