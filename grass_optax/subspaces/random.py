"""Rules that do not read the gradient."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import positive
from grass_optax._linalg import grassmann
from grass_optax.subspaces.rule import Refresh, SubspaceRule, stateless_rule, turning


def random_jump(orthonormal: bool = True) -> SubspaceRule:
    """A fresh random basis: the orthonormal basis of a Gaussian (GrassJump, sec. 4).

    The subspace is uniformly distributed on the Grassmann manifold.

    Args:
      orthonormal: False only scales the Gaussian's columns to unit length (the paper's "No QR").
        Then S^T S is not I, and projection, lift and transport do not correct for it: they use S as
        it is, without a pseudo-inverse.
    """

    def jump(refresh: Refresh) -> Float[Array, "m r"]:
        shape, dtype = refresh.basis.shape, refresh.basis.dtype
        return grassmann.random_basis(refresh.key, shape, dtype, orthonormal)

    return stateless_rule(jump, orthonormal=orthonormal, keyed=True)


def random_walk(step_size: ArrayLike | None = None, walk_rank: int = 1) -> SubspaceRule:
    """A random geodesic from the old basis that turns some of its directions (GrassWalk, eq. 4).

    The paper's direction is a Gaussian projected to the tangent space and truncated to `walk_rank`
    by an SVD. The singular frames of such a matrix are uniformly distributed, so they are drawn
    directly.

    Args:
      step_size: the angle, in radians, by which every direction turns. None draws each angle
        uniformly from [0, 2 pi), the law of the paper's step of 10^4 times a singular value.
      walk_rank: the number of directions that turn, at most min(r, m - r).
    """

    walk_rank = positive("walk_rank", walk_rank)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        frames_key, angle_key = jax.random.split(refresh.key)
        basis = refresh.basis
        left, right = grassmann.random_tangent_frames(frames_key, basis, walk_rank)
        if step_size is None:
            angles = jax.random.uniform(angle_key, (walk_rank,), basis.dtype, maxval=2 * math.pi)
        else:
            angles = jnp.broadcast_to(jnp.asarray(step_size, basis.dtype), (walk_rank,))
        return grassmann.exp(basis, left, angles, right), refresh.rule_state

    return SubspaceRule(init=turning("walk_rank", walk_rank), update=update, moves=True)


def random_projection() -> SubspaceRule:
    """A Gaussian matrix with entries of variance 1/r: E ||S^T x||^2 = ||x||^2 (APOLLO).

    Its columns are neither orthogonal nor of unit length: it measures norms, and is not meant for
    lifting.
    """

    def draw(refresh: Refresh) -> Float[Array, "m r"]:
        shape, dtype = refresh.basis.shape, refresh.basis.dtype
        return jax.random.normal(refresh.key, shape, dtype) / shape[-1] ** 0.5

    return stateless_rule(draw, orthonormal=False, keyed=True)


def columns() -> SubspaceRule:
    """r of the m coordinate axes, drawn without replacement (FRUGAL).

    S has a single 1 in each column.
    """

    def draw(refresh: Refresh) -> Float[Array, "m r"]:
        m, rank = refresh.basis.shape
        chosen = jnp.argsort(jax.random.uniform(refresh.key, (m,)))[:rank]
        return (chosen[None] == jnp.arange(m)[:, None]).astype(refresh.basis.dtype)

    return stateless_rule(draw, keyed=True)


def frozen(basis: Float[Array, "m r"] | None = None, orthonormal: bool = True) -> SubspaceRule:
    """The basis does not move.

    Args:
      basis: the basis of every matrix; None keeps the old basis.
      orthonormal: pass False if `basis` is not orthonormal; the norms of the residual are then
        corrected with its Gram matrix.
    """

    def stay(refresh: Refresh) -> Float[Array, "m r"]:
        return refresh.basis if basis is None else basis.astype(refresh.basis.dtype)

    return stateless_rule(stay, orthonormal=orthonormal, moves=basis is None)
