"""The matrix products that the geometry is written in, over any batch axes.

They run at full precision whatever JAX's default is, because the errors of a basis outlive the step
that made them.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def transpose(x: Float[Array, "*b m n"]) -> Float[Array, "*b n m"]:
    """Swap the two matrix axes."""
    return jnp.swapaxes(x, -1, -2)


def project(basis: Float[Array, "*b m r"], x: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
    """Coordinates S^T X of the columns of X in the basis (eq. 1).

    Args:
      basis: S (..., m, r).
      x: X (..., m, n).

    Returns:
      S^T X (..., r, n).

    Examples:
      >>> grassmann.project(jnp.eye(2, 1), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
      Array([[1., 2.]], dtype=float32)
    """
    return matmul(transpose(basis), x)


def lift(basis: Float[Array, "*b m r"], x: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
    """S X: coordinates back in the whole space.

    Args:
      basis: S (..., m, r).
      x: X (..., r, n).

    Returns:
      S X (..., m, n).

    Examples:
      >>> grassmann.lift(jnp.eye(2, 1), jnp.array([[1.0, 2.0]]))
      Array([[1., 2.],
             [0., 0.]], dtype=float32)
    """
    return matmul(basis, x)


def rotation(new: Float[Array, "*b m r"], old: Float[Array, "*b m r"]) -> Float[Array, "*b r r"]:
    """Q = S_new^T S_old, which takes coordinates in the old basis to the new one (eq. 7).

    Args:
      new, old: two bases (..., m, r).

    Returns:
      Q (..., r, r).

    Examples:
      >>> old = jnp.eye(3, 2)
      >>> grassmann.rotation(old[:, ::-1], old)
      Array([[0., 1.],
             [1., 0.]], dtype=float32)
    """
    return project(new, old)


def to_tangent(basis: Float[Array, "*b m r"], x: Float[Array, "*b m k"]) -> Float[Array, "*b m k"]:
    """The part of X outside the subspace, X - S S^T X: its horizontal projection.

    Args:
      basis: S (..., m, r), orthonormal.
      x: X (..., m, k).

    Returns:
      A matrix (..., m, k), orthogonal to S.

    Examples:
      >>> grassmann.to_tangent(jnp.eye(2, 1), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
      Array([[0., 0.],
             [3., 4.]], dtype=float32)
    """
    return x - lift(basis, project(basis, x))


def scaled_to_one(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """X divided by its largest entry; zero where X is zero or not finite."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    usable = jnp.isfinite(largest) & (largest > 0)
    return jnp.where(usable, x / jnp.where(usable, largest, 1), 0)
