"""Geometry of the Grassmann manifold in matrix products only.

A point of Gr(m, r) is represented by a basis S (..., m, r) with S^T S = I. Leading axes are batch
axes throughout. Geodesics are written in two frames and k angles, so a step never factorises a
matrix.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from grass_optax._linalg.orthonormal import orthonormality_error, orthonormalize
from grass_optax._linalg.products import lift, matmul, project, rotation, to_tangent, transpose

__all__ = [
    "project",
    "lift",
    "rotation",
    "to_tangent",
    "exp",
    "orthonormalize",
    "orthonormality_error",
    "random_basis",
    "random_tangent_frames",
    "principal_cosines",
]


def exp(
    basis: Float[Array, "*b m r"],
    left: Float[Array, "*b m k"],
    angles: Float[Array, "*b k"],
    right: Float[Array, "*b r k"],
) -> Float[Array, "*b m r"]:
    """The exponential map along the tangent U diag(angles) V^T, given its singular frames (eq. 4).

    With U^T U = V^T V = I and S^T U = 0::

      S' = S + (S V (cos(angles) - I) + U sin(angles)) V^T

    For k < r this is the paper's form: the r - k directions of S orthogonal to V do not move.

    Args:
      basis: S.
      left: U.
      angles: in radians.
      right: V.

    Returns:
      S', with S'^T S' = I.
    """
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    return basis + matmul(lift(basis, right) * (cos - 1) + left * sin, transpose(right))


def random_basis(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    orthonormal: bool = True,
) -> Float[Array, "*b m r"]:
    """A uniformly random subspace: the orthonormal basis of a Gaussian matrix of shape (..., m, r).

    With `orthonormal=False` the Gaussian's columns are only scaled to unit length (the paper's "No
    QR").
    """
    gaussian = jax.random.normal(key, shape, dtype)
    return orthonormalize(gaussian) if orthonormal else _unit_columns(gaussian)


def random_tangent_frames(
    key: Key[Array, ""], basis: Float[Array, "*b m r"], k: int
) -> tuple[Float[Array, "*b m k"], Float[Array, "*b r k"]]:
    """Singular frames (U, V) of a Gaussian tangent at S, drawn without its SVD.

    Both are uniformly distributed, U in the complement of S. k must be at most min(r, m - r).
    """
    left_key, right_key = jax.random.split(key)
    *batch, m, r = basis.shape
    outside = to_tangent(basis, jax.random.normal(left_key, (*batch, m, k), basis.dtype))
    # Projected twice: what rounding leaves of S in a frame would build up over a thousand walks.
    left = to_tangent(basis, orthonormalize(outside))
    return left, random_basis(right_key, (*batch, r, k), basis.dtype)


def principal_cosines(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    """Cosines of the principal angles between two subspaces, the largest first.

    For diagnostics only: it computes an SVD.
    """
    return jnp.clip(jnp.linalg.svd(rotation(first, second), compute_uv=False), 0, 1)


def _unit_columns(x: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    return x / jnp.linalg.norm(x, axis=-2, keepdims=True)
