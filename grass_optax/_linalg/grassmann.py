"""Geometry of the Grassmann manifold in matrix products only.

A point of Gr(m, r) is represented by a basis S (..., m, r) with S^T S = I. Leading axes are batch
axes throughout. Geodesics are written in two frames and k angles, so a step never factorises a
matrix.

`exp` and `log` between points and tangents are for people; the optimizer walks by `exp_frames`,
because it draws singular frames and angles and so has no tangent to decompose.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from grass_optax._linalg.geodesics import distance, exp, log, parallel_transport, principal_angles
from grass_optax._linalg.orthonormal import orthonormality_error, orthonormalize
from grass_optax._linalg.products import lift, matmul, project, rotation, to_tangent, transpose

__all__ = [
    "project",
    "lift",
    "rotation",
    "to_tangent",
    "exp",
    "log",
    "parallel_transport",
    "distance",
    "principal_angles",
    "principal_cosines",
    "exp_frames",
    "orthonormalize",
    "orthonormality_error",
    "random_basis",
    "random_tangent_frames",
]


def exp_frames(
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
      basis: S (..., m, r).
      left: U (..., m, k).
      angles: (..., k), in radians.
      right: V (..., r, k).

    Returns:
      S' (..., m, r), with S'^T S' = I.

    Examples:
      >>> left, right = jnp.array([[0.0], [1.0]]), jnp.eye(1)
      >>> grassmann.exp_frames(jnp.eye(2, 1), left, jnp.array([jnp.pi / 4]), right).T.round(4)
      Array([[0.7071, 0.7071]], dtype=float32)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025
    """
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    return basis + matmul(lift(basis, right) * (cos - 1) + left * sin, transpose(right))


def random_basis(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    orthonormal: bool = True,
) -> Float[Array, "*b m r"]:
    """A uniformly random subspace: the orthonormal basis of a Gaussian matrix.

    Args:
      key: a typed key.
      shape: (..., m, r).
      dtype: of the basis.
      orthonormal: False only scales the Gaussian's columns to unit length (the paper's "No QR").

    Returns:
      A basis (..., m, r).

    Examples:
      >>> basis = grassmann.random_basis(jax.random.key(0), (9, 2), jnp.float32)
      >>> bool(grassmann.orthonormality_error(basis) < 1e-5)
      True
    """
    gaussian = jax.random.normal(key, shape, dtype)
    return orthonormalize(gaussian) if orthonormal else _unit_columns(gaussian)


def random_tangent_frames(
    key: Key[Array, ""], basis: Float[Array, "*b m r"], k: int
) -> tuple[Float[Array, "*b m k"], Float[Array, "*b r k"]]:
    """Singular frames (U, V) of a Gaussian tangent at S, drawn without its SVD.

    Both are uniformly distributed, U in the complement of S.

    Args:
      key: a typed key.
      basis: S (..., m, r), orthonormal.
      k: the number of directions, at most min(r, m - r).

    Returns:
      U (..., m, k) and V (..., r, k).

    Examples:
      >>> basis = jnp.eye(9, 2)
      >>> left, right = grassmann.random_tangent_frames(jax.random.key(0), basis, k=1)
      >>> left.shape, right.shape, bool(jnp.max(jnp.abs(basis.T @ left)) < 1e-6)
      ((9, 1), (2, 1), True)
    """
    left_key, right_key = jax.random.split(key)
    *batch, m, r = basis.shape
    outside = to_tangent(basis, jax.random.normal(left_key, (*batch, m, k), basis.dtype))
    # Projected twice: what rounding leaves of S in a frame would build up over a thousand walks.
    left = to_tangent(basis, orthonormalize(outside))
    return left, random_basis(right_key, (*batch, r, k), basis.dtype)


def principal_cosines(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    """Cosines of the principal angles between two subspaces, the largest first.

    Args:
      first, second: two orthonormal bases (..., m, r).

    Returns:
      The cosines (..., r).

    Examples:
      >>> axes = jnp.eye(4)
      >>> grassmann.principal_cosines(axes[:, :2], axes[:, 1:3]).round(3)
      Array([1., 0.], dtype=float32)
    """
    return jnp.clip(jnp.cos(principal_angles(first, second)), 0, 1)


def _unit_columns(x: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    return x / jnp.linalg.norm(x, axis=-2, keepdims=True)
