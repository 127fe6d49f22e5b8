"""Rules that do not read the gradient.

Members: random_jump, random_walk, random_projection, columns, frozen.
"""

import math
from typing import Any, SupportsInt

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grass_optax._checks import positive
from grass_optax._linalg import grassmann
from grass_optax.subspaces.rule import Refresh, SubspaceRule, stateless_rule, turning


def random_jump(orthonormal: bool = True) -> SubspaceRule:
    """A fresh random basis: the orthonormal basis of a Gaussian, Haar on the Grassmannian
    (GrassJump, sec. 4).

    With `orthonormal=False` (the paper's "No QR") the Gaussian's columns are only scaled to unit
    length. Then S^T S is not I, and nothing is corrected for it: projection, lift and transport use
    S literally, with no pseudo-inverse.
    """

    def jump(refresh: Refresh) -> Float[Array, "*b m r"]:
        return grassmann.random_basis(refresh.key, refresh.basis.shape, refresh.basis.dtype, orthonormal)

    return stateless_rule(jump, orthonormal=orthonormal, keyed=True)


def random_walk(step_size: jax.typing.ArrayLike | None = None, walk_rank: SupportsInt = 1) -> SubspaceRule:
    """A random geodesic from the old basis, turning `walk_rank` of its directions (GrassWalk, eq.
    4).

    The paper's direction is a Gaussian projected to the tangent space and truncated to `walk_rank`
    by an SVD; the singular frames of such a matrix are Haar, so they are drawn as what they are.
    `step_size` is the angle in radians of every direction; None draws each angle uniformly from [0,
    2 pi), the law of the paper's step of 10^4 times a singular value. Needs walk_rank <= min(r, m -
    r).
    """

    walk_rank = positive("walk_rank", walk_rank)

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        frames_key, angle_key = jax.random.split(refresh.key)
        basis = refresh.basis
        left, right = grassmann.random_tangent_frames(frames_key, basis, walk_rank)
        shape = (*basis.shape[:-2], walk_rank)
        if step_size is None:
            angles = jax.random.uniform(angle_key, shape, basis.dtype, maxval=2 * math.pi)
        else:
            angles = jnp.broadcast_to(jnp.asarray(step_size, basis.dtype), shape)
        return grassmann.exp(basis, left, angles, right), refresh.rule_state

    return SubspaceRule(turning("walk_rank", walk_rank), update, moves=True)


def random_projection() -> SubspaceRule:
    """A Gaussian matrix with entries of variance 1/r: E ||S^T x||^2 = ||x||^2 (APOLLO).

    Its columns are neither orthonormal nor of unit length: it measures, and is not meant to lift.
    """

    def draw(refresh: Refresh) -> Float[Array, "*b m r"]:
        shape, dtype = refresh.basis.shape, refresh.basis.dtype
        return jax.random.normal(refresh.key, shape, dtype) / shape[-1] ** 0.5

    return stateless_rule(draw, orthonormal=False, keyed=True)


def columns() -> SubspaceRule:
    """r of the m coordinate axes, drawn without replacement: S has a single 1 in each column
    (FRUGAL).
    """

    def draw(refresh: Refresh) -> Float[Array, "*b m r"]:
        *batch, m, rank = refresh.basis.shape
        chosen = jnp.argsort(jax.random.uniform(refresh.key, (*batch, m)))[..., None, :rank]
        axes = jnp.arange(m).reshape((1,) * len(batch) + (m, 1))
        return (chosen == axes).astype(refresh.basis.dtype)

    return stateless_rule(draw, keyed=True)


def frozen(basis: Float[Array, "m r"] | None = None, orthonormal: bool = True) -> SubspaceRule:
    """The basis stays where it is; as `initial`, or to inject a basis, every matrix starts from the
    one given.

    Say `orthonormal=False` of one that is not: the norms outside the subspace then follow from its
    Gram matrix.
    """

    def stay(refresh: Refresh) -> Float[Array, "*b m r"]:
        if basis is None:
            return refresh.basis
        return jnp.broadcast_to(basis.astype(refresh.basis.dtype), refresh.basis.shape)

    return stateless_rule(stay, orthonormal=orthonormal, moves=basis is None)
