"""Rules that read the gradient, and the switch from one rule to another.

If the gradient is not finite, the basis stays as it is; a first basis is then random.
"""

import math
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import one_of, positive
from grass_optax._inner.states import first_moment
from grass_optax._linalg import grassmann
from grass_optax._linalg.orthonormal import orthonormal_frame, orthonormalize
from grass_optax._linalg.products import lift, matmul, project, scaled_to_one, transpose
from grass_optax._linalg.spectral import (
    leading_left_singular_vectors,
    leading_singular_triplets,
    range_basis,
)
from grass_optax.subspaces.rule import (
    Refresh,
    SubspaceRule,
    finite_or_noise,
    kept_unless_finite,
    stateless_rule,
    turning,
)

SVD = Literal["exact", "randomized"]
# Weight of the old basis in a power iteration: it keeps the new one at full rank where the
# gradient's rank is lower.
_POWER_SHIFT = 1e-4


def svd(method: SVD = "exact") -> SubspaceRule:
    """The leading left singular vectors of the gradient (GaLore).

    The exact SVD and `coap` are the only rules that factorise a matrix. On a mesh of CPU devices
    before jaxlib 0.11 they are an error.

    Args:
      method: "exact", or "randomized" for the `range_finder`.
    """
    if one_of("svd", method, get_args(SVD)) == "randomized":
        return range_finder()

    def leading(refresh: Refresh) -> Float[Array, "m r"]:
        grad = finite_or_noise(refresh).astype(refresh.basis.dtype)
        new = leading_left_singular_vectors(grad, refresh.basis.shape[-1])
        return kept_unless_finite(refresh, new)

    return stateless_rule(leading)


def range_finder(power_steps: int = 2) -> SubspaceRule:
    """A basis near the leading left singular vectors, by subspace iteration in products only.

    Captured energy against the exact SVD, 512 x 1376 at rank 128: .997/.998 for singular values
    1/k, .884/.893 for k^(-1/2). A gradient of zero gives a random basis.

    Args:
      power_steps: the number of subspace iterations.
    """

    power_steps = positive("power_steps", power_steps)

    def find(refresh: Refresh) -> Float[Array, "m r"]:
        grad, rank = refresh.grad.astype(refresh.basis.dtype), refresh.basis.shape[-1]
        return kept_unless_finite(refresh, range_basis(refresh.key, grad, rank, power_steps))

    return stateless_rule(find)


def dct() -> SubspaceRule:
    """The r vectors of the discrete cosine transform with most energy (Trion, DCT-AdamW).

    S holds the columns of D with the largest ||(D^T G)_k||, where::

      D_ik = sqrt(2/m) cos(pi (2i + 1) k / 2m),  the first column over sqrt(2)

    Where weights are smooth along an axis, these are near the singular vectors. All leaves of the
    same m choose from the columns of the same D.
    """

    def choose(refresh: Refresh) -> Float[Array, "m r"]:
        m, rank = refresh.basis.shape
        transform = _dct_matrix(m, refresh.basis.dtype)
        coefficients = project(transform, finite_or_noise(refresh).astype(transform.dtype))
        chosen = jnp.argsort(-jnp.sum(jnp.square(coefficients), axis=-1))[:rank]
        return kept_unless_finite(refresh, jnp.take(transform, chosen, axis=-1))

    return stateless_rule(choose)


def tracking(step_size: ArrayLike | None = None, tracking_rank: int = 1) -> SubspaceRule:
    """A step along the geodesic on which the captured energy rises fastest (SubTrack, eq. 3-6).

    With A = S^T G, R = G - S A and the tangent H = 2 R A^T, for each of its leading singular
    triplets (u, sigma, v)::

      S' = S + ((cos(theta) - 1) S v + sin(theta) u) v^T

    H is uphill: the paper's -2 R A^T with a plus sign before the sine goes down.

    Args:
      step_size: the paper's eta, theta = eta sigma. None takes the best angle in the plane of S v
        and u, theta = atan2(2b, a - d) / 2 with a = ||G^T S v||^2, d = ||G^T u||^2 and
        b = (S v)^T G G^T u. The captured energy of this gradient then never falls.
      tracking_rank: the number of triplets, at most min(r, m - r).
    """

    tracking_rank = positive("tracking_rank", tracking_rank)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        basis, unscaled = refresh.basis, refresh.grad.astype(refresh.basis.dtype)
        grad = scaled_to_one(unscaled)
        inside = project(basis, grad)
        tangent = 2 * matmul(grad - lift(basis, inside), transpose(inside))
        left, sigma, right = leading_singular_triplets(tangent, tracking_rank)
        left = orthonormal_frame(left, outside=basis)
        if step_size is None:
            angles = _best_angles(grad, inside, left, right)
        else:
            slopes = jnp.square(jnp.max(jnp.abs(unscaled))) * sigma
            present = jnp.any(left != 0, axis=-2)
            angles = jnp.where(present, jnp.asarray(step_size, basis.dtype) * slopes, 0)
        new = grassmann.exp(basis, left, angles, right)
        return kept_unless_finite(refresh, new), refresh.rule_state

    return SubspaceRule(init=turning("tracking_rank", tracking_rank), update=update, moves=True)


def power_iteration(b1: ArrayLike, blend: ArrayLike = 0.908) -> SubspaceRule:
    """One step of block power iteration from the old basis (LDAdam).

    It iterates on a blend of momentum and gradient, with M the inner first moment::

      B = rho S M / (1 - b1^(t-1)) + (1 - rho) G
      S' = an orthonormal basis of (B B^T + delta I) S

    The released code takes the Q of a QR factorisation of B B^T S. This deviates in two points.
    First, the basis is the polar factor, which spans the same subspace, needs no factorisation and
    is the nearest to the old basis. Second, delta, 1e-4 of the norm of B B^T S, keeps the
    directions of S where B B^T has a lower rank.

    Args:
      b1: the decay rate of the inner first moment.
      blend: rho, the weight of the momentum.
    """

    def iterate(refresh: Refresh) -> Float[Array, "m r"]:
        basis, rho = refresh.basis, jnp.asarray(blend, refresh.basis.dtype)
        decayed = jnp.asarray(b1, basis.dtype) ** refresh.count.astype(basis.dtype)
        moment = first_moment(refresh.inner_state, b1).astype(basis.dtype)
        moment = moment / jnp.where(decayed < 1, 1 - decayed, 1)
        target = rho * lift(basis, moment) + (1 - rho) * refresh.grad.astype(basis.dtype)
        target = scaled_to_one(target)
        power = matmul(target, matmul(transpose(target), basis))
        norm = jnp.linalg.norm(power)
        power = power * (basis.shape[-1] ** 0.5 / jnp.where(norm > 0, norm, 1))
        return kept_unless_finite(refresh, orthonormalize(power + _POWER_SHIFT * basis))

    return stateless_rule(iterate, moves=True)


def switch(first: SubspaceRule, then: SubspaceRule, start: ArrayLike) -> SubspaceRule:
    """Use the rule `first` for the first `start` updates, and `then` afterwards (GoLore)."""

    def init(basis_shape: tuple[int, int], dtype: Any) -> PyTree:
        return first.init(basis_shape, dtype), then.init(basis_shape, dtype)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        old, new = refresh.rule_state

        def by_first() -> tuple[Array, PyTree]:
            basis, state = first.update(refresh._replace(rule_state=old))
            return basis, (state, new)

        def by_then() -> tuple[Array, PyTree]:
            basis, state = then.update(refresh._replace(rule_state=new))
            return basis, (old, state)

        return lax.cond(refresh.count < start, by_first, by_then)

    return SubspaceRule(
        init=init,
        update=update,
        orthonormal=first.orthonormal and then.orthonormal,
        keyed=False,  # which of the two drew a basis depends on the count, whatever they read
        moves=first.moves or then.moves,
    )


def _dct_matrix(m: int, dtype: Any) -> Float[Array, "m m"]:
    """The orthonormal DCT-II as columns."""
    rows, columns = jnp.arange(m)[:, None], jnp.arange(m)[None]
    # The phase is reduced as an integer: as a float it would lose the digits of a large m.
    phase = ((2 * rows + 1) * columns) % (4 * m)
    waves = jnp.cos(jnp.asarray(math.pi / (2 * m), dtype) * phase.astype(dtype)) * (2 / m) ** 0.5
    return jnp.where(columns == 0, jnp.asarray(0.5**0.5, dtype), jnp.asarray(1, dtype)) * waves


def _best_angles(
    grad: Float[Array, "m n"],
    inside: Float[Array, "r n"],
    left: Float[Array, "m k"],
    right: Float[Array, "r k"],
) -> Float[Array, "k"]:
    """The angle of each plane (S v, u) at which cos S v + sin u captures most of the gradient."""
    kept, offered = project(right, inside), project(left, grad)  # (..., k, n)
    a, d, b = (jnp.sum(x * y, axis=-1) for x, y in ((kept, kept), (offered, offered), (kept, offered)))
    return jnp.arctan2(2 * b, a - d) / 2
