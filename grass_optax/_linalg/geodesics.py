"""Geodesics of the Grassmann manifold between points and tangents, in matrix products only.

With H^T H = V diag(sigma^2) V^T, every formula is one in H V, whose columns are orthogonal and as
long as the singular values of the tangent H: no singular vector is divided by a small number.
The eigenvectors V are found by Jacobi rotations, so all of it runs under `jax.jit` and `jax.vmap`
and over any leading axes, and has derivatives forwards.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from grass_optax._linalg.jacobi import eigenvectors
from grass_optax._linalg.products import lift, matmul, project, rotation, transpose


def exp(basis: Float[Array, "*b m r"], tangent: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The point where the geodesic from S with the velocity H is after a unit of time (eq. 4).

    With the thin singular value decomposition H = U diag(sigma) V^T and S^T H = 0::

      S' = S V cos(sigma) V^T + U sin(sigma) V^T

    Args:
      basis: S (..., m, r), orthonormal.
      tangent: H (..., m, r), orthogonal to S; `to_tangent` makes one of any matrix.

    Returns:
      S' (..., m, r), orthonormal.

    Examples:
      >>> tangent = jnp.array([[0.0], [jnp.pi / 4]])
      >>> grassmann.exp(jnp.eye(2, 1), tangent).T.round(4)
      Array([[0.7071, 0.7071]], dtype=float32)

    References:
      Edelman et al., `The Geometry of Algorithms with Orthogonality Constraints
      <https://arxiv.org/abs/physics/9806030>`_, 1998, eq. 2.65
    """
    right, left, sigma = _singular_frames(tangent)
    moved = lift(basis, right) * jnp.cos(sigma) + left * _sinc(sigma)
    return matmul(moved, transpose(right))


def log(basis: Float[Array, "*b m r"], other: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The tangent H at S of the shortest geodesic to the subspace of S': the inverse of `exp`.

    With the part outside E = S' - S S^T S', the eigenvectors Z of E^T E and the principal angles
    theta, sin(theta) = ||E Z||::

      H = E Z diag(theta / (sin(theta) cos(theta))) Z^T S'^T S

    exp(S, H) spans the subspace of S', in the basis of it that is nearest to S. Where an angle is
    pi/2, the shortest geodesic is not unique; the result then lacks this direction.

    Args:
      basis: S (..., m, r), orthonormal.
      other: S' (..., m, r), orthonormal.

    Returns:
      H (..., m, r), with S^T H = 0.

    Examples:
      >>> grassmann.log(jnp.eye(2, 1), jnp.array([[0.7071068], [0.7071068]])).T.round(4)
      Array([[0.    , 0.7854]], dtype=float32)

    References:
      Bendokat et al., `A Grassmann Manifold Handbook <https://arxiv.org/abs/2011.13699>`_, 2024,
      section 5.2
    """
    inside, outside = _inside_and_outside(basis, other)
    vectors = eigenvectors(rotation(outside, outside))
    sines, cosines = (jnp.linalg.norm(matmul(x, vectors), axis=-2, keepdims=True) for x in (outside, inside))
    angles = jnp.arctan2(sines, cosines)
    both = jnp.sinc(2 * angles / jnp.pi)  # sin(theta) cos(theta) / theta
    is_defined = cosines > jnp.finfo(cosines.dtype).eps
    stretched = matmul(outside, vectors) * jnp.where(is_defined, 1 / jnp.where(is_defined, both, 1), 0)
    return matmul(stretched, transpose(matmul(inside, vectors)))


def parallel_transport(
    basis: Float[Array, "*b m r"], direction: Float[Array, "*b m r"], tangent: Float[Array, "*b m r"]
) -> Float[Array, "*b m r"]:
    """A tangent X at S as one at exp(S, H), carried along that geodesic without turning.

    With H = U diag(sigma) V^T::

      X' = (-S V sin(sigma) U^T + U cos(sigma) U^T + I - U U^T) X

    Lengths and inner products of tangents stay as they are.

    Args:
      basis: S (..., m, r), orthonormal.
      direction: H (..., m, r), orthogonal to S.
      tangent: X (..., m, r), orthogonal to S.

    Returns:
      X' (..., m, r), orthogonal to exp(S, H).

    Examples:
      >>> velocity = jnp.array([[0.0], [jnp.pi / 2]])
      >>> grassmann.parallel_transport(jnp.eye(2, 1), velocity, velocity).T.round(4)
      Array([[-1.5708, -0.    ]], dtype=float32)

    References:
      Edelman et al., `The Geometry of Algorithms with Orthogonality Constraints
      <https://arxiv.org/abs/physics/9806030>`_, 1998, eq. 2.68
    """
    right, left, sigma = _singular_frames(direction)  # left = U diag(sigma)
    along = project(left, tangent)
    # (cos(sigma) - 1) / sigma^2 = -sinc(sigma / 2)^2 / 2
    turned = lift(basis, right) * _sinc(sigma) + left * (0.5 * jnp.square(_sinc(sigma / 2)))
    return tangent - matmul(turned, along)


def principal_angles(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    """The principal angles between two subspaces, the smallest first.

    Angles below pi/4 are arcsines of the singular values of S' - S S^T S', and the others
    arccosines of those of S^T S': both are accurate where they are used.

    Args:
      first, second: two orthonormal bases S and S' (..., m, r).

    Returns:
      The angles (..., r), in radians, from 0 to pi/2.

    Examples:
      >>> axes = jnp.eye(4)
      >>> grassmann.principal_angles(axes[:, :2], axes[:, 1:3]).round(4)
      Array([0.    , 1.5708], dtype=float32)

    References:
      Björck and Golub, Numerical Methods for Computing Angles Between Linear Subspaces, 1973
    """
    return angles_of(*_inside_and_outside(first, second))


def angles_of(inside: Float[Array, "*b k r"], outside: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    """The principal angles, given S^T S' and S' - S S^T S'."""
    cosines, sines = (jnp.clip(singular_values(x), 0, 1) for x in (inside, outside))
    sines = sines[..., ::-1]
    return jnp.where(sines < 0.5**0.5, jnp.arcsin(sines), jnp.arccos(cosines))


def distance(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> Float[Array, "*b"]:
    """The length of the shortest geodesic between two subspaces.

    It is that of the principal angles as a vector, ||theta||_2.

    Args:
      first, second: two orthonormal bases (..., m, r).

    Returns:
      The distance (...), in radians, at most sqrt(r) pi/2.

    Examples:
      >>> grassmann.distance(jnp.eye(3, 1), jnp.eye(3)[:, 1:2]).round(4)
      Array(1.5708, dtype=float32)
    """
    return jnp.linalg.norm(principal_angles(first, second), axis=-1)


def singular_values(x: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    """The singular values of X, the largest first, as the norms of X V: small ones are accurate to
    the rounding of the largest.
    """
    values = jnp.linalg.norm(matmul(x, eigenvectors(rotation(x, x))), axis=-2)
    return -jnp.sort(-values, axis=-1)


def _singular_frames(tangent: Float[Array, "*b m r"]) -> tuple[Array, Array, Array]:
    """V (..., r, r), U diag(sigma) (..., m, r) and sigma (..., 1, r) of a tangent."""
    right = eigenvectors(rotation(tangent, tangent))
    left = matmul(tangent, right)
    return right, left, jnp.linalg.norm(left, axis=-2, keepdims=True)


def _inside_and_outside(basis: Float[Array, "*b m r"], other: Float[Array, "*b m r"]) -> tuple[Array, Array]:
    """S^T S', and the part of S' outside the subspace; projected twice, so that small angles are
    not the rounding of the first time.
    """
    inside = project(basis, other)
    outside = other - lift(basis, inside)
    return inside, outside - lift(basis, project(basis, outside))


def _sinc(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """sin(x) / x, and 1 at 0."""
    return jnp.sinc(x / jnp.pi)
