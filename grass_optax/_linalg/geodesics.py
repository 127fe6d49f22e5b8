"""Geodesics of the Grassmann manifold between points and tangents, in matrix products only.

With H^T H = V diag(sigma^2) V^T, every formula is one in H V, whose columns are orthogonal and as
long as the singular values of the tangent H: no singular vector is divided by a small number.
The eigenvectors V are found by Jacobi rotations, so all of it runs under `jax.jit` and `jax.vmap`
and over any leading axes.

`distance` has derivatives, forwards and backwards. The other functions have none backwards by what
they decompose, as the rotations are loops. Forwards theirs lack the rotations that were not needed:
they are right where singular values are distinct and not 0, and no Gram matrix is diagonal.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grass_optax._linalg.jacobi import eigenvectors, singular_vectors
from grass_optax._linalg.products import lift, matmul, project, rotation, transpose


def exp(basis: Float[Array, "*b m r"], tangent: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The point where the geodesic from S with the velocity H is after a unit of time (eq. 4).

    With the thin singular value decomposition H = U diag(sigma) V^T and S^T H = 0::

      S' = S V cos(sigma) V^T + U sin(sigma) V^T

    It has derivatives forwards only, where the sigma are distinct and not 0, and H^T H is not
    diagonal.

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

    With the part outside E = S' - S S^T S' and the singular value decomposition of S^T S', whose
    singular values are the cosines of the principal angles theta::

      S^T S' = U diag(cos(theta)) V^T,   H = E V diag(theta / sin(theta)) U^T

    exp(S, H) spans the subspace of S', in the basis of it that is nearest to S, and ||H|| is the
    distance. Where an angle is pi/2, several geodesics are the shortest, and H is of one of them: a
    small change of S or S' may then give another. It has derivatives forwards only, where the
    angles are distinct and between 0 and pi/2, and S^T S' is not diagonal.

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
    left, cosines, right = singular_vectors(inside)
    return _log(outside, left, cosines, right)


def parallel_transport(
    basis: Float[Array, "*b m r"], direction: Float[Array, "*b m r"], tangent: Float[Array, "*b m r"]
) -> Float[Array, "*b m r"]:
    """A tangent X at S as one at exp(S, H), carried along that geodesic without turning.

    With H = U diag(sigma) V^T::

      X' = (-S V sin(sigma) U^T + U cos(sigma) U^T + I - U U^T) X

    Lengths and inner products of tangents stay as they are. It has derivatives by X; by H as `exp`.

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
    arccosines of those of S^T S': both are accurate where they are used. They have derivatives
    forwards only, as `log`.

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
    _, cosines, _ = singular_vectors(inside)
    return _angles(cosines, outside)


def _angles(cosines: Float[Array, "*b r"], outside: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    cosines, sines = (jnp.clip(x, 0, 1) for x in (cosines, singular_values(outside)[..., ::-1]))
    return jnp.where(sines < 0.5**0.5, jnp.arcsin(sines), jnp.arccos(cosines))


def distance(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> Float[Array, "*b"]:
    """The length of the shortest geodesic between two subspaces.

    It is that of the principal angles as a vector, ||theta||_2. Its derivative, forwards and
    backwards, is that of the geometry, so a change of basis inside a subspace counts for nothing::

      d distance = -<log(S, S'), dS> / distance - <log(S', S), dS'> / distance

    It is 0 where the distance is 0, and that of one of the shortest geodesics where several are.

    Args:
      first, second: two orthonormal bases (..., m, r).

    Returns:
      The distance (...), in radians, at most sqrt(r) pi/2.

    Examples:
      >>> grassmann.distance(jnp.eye(3, 1), jnp.eye(3)[:, 1:2]).round(4)
      Array(1.5708, dtype=float32)
    """
    return _distance(first, second)


@jax.custom_jvp
def _distance(first: Float[Array, "*b m r"], second: Float[Array, "*b m r"]) -> Float[Array, "*b"]:
    return jnp.linalg.norm(principal_angles(first, second), axis=-1)


@_distance.defjvp
def _distance_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Linear in the tangents, so that it runs backwards too."""
    first, second = primals
    inside, outside = _inside_and_outside(first, second)
    _, outside_second = _inside_and_outside(second, first)
    left, cosines, right = singular_vectors(inside)
    length = jnp.linalg.norm(_angles(cosines, outside), axis=-1)
    logs = _log(outside, left, cosines, right), _log(outside_second, right, cosines, left)
    toward = sum(jnp.sum(log * dx, axis=(-2, -1)) for log, dx in zip(logs, tangents, strict=True))
    return length, jnp.where(length > 0, -toward / jnp.where(length > 0, length, 1), 0)


def _log(
    outside: Float[Array, "*b m r"],
    left: Float[Array, "*b r r"],
    cosines: Float[Array, "*b r"],
    right: Float[Array, "*b r r"],
) -> Float[Array, "*b m r"]:
    """E V diag(theta / sin(theta)) U^T, where sin(theta) = ||E V||."""
    columns = matmul(outside, right)
    sines = jnp.linalg.norm(columns, axis=-2, keepdims=True)
    angles = jnp.arctan2(sines, cosines[..., None, :])
    return matmul(columns / _sinc(angles), transpose(left))


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
