"""Rules that read the gradient, and the switch from one rule to another.

A gradient that is not finite keeps the basis; at the start it gives a random one.

Members: svd, range_finder, dct, tracking, power_iteration, switch.
"""

import math
from typing import Any, SupportsInt

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._checks import one_of, positive
from grass_optax._inner.states import first_moment
from grass_optax._linalg import grassmann
from grass_optax.subspaces.rule import (
    Refresh,
    SubspaceRule,
    finite_or_noise,
    kept_unless_finite,
    stateless_rule,
    turning,
)

SVDS = ("exact", "randomized")
# Weight of the old basis in a power iteration: what keeps the new one at full rank where the
# gradient's is lower.
_POWER_SHIFT = 1e-4


def svd(method: str = "exact") -> SubspaceRule:
    """The leading left singular vectors of the gradient (GaLore), exact or by the `range_finder`.

    The exact one and `coap` are the only rules that factorise a matrix: see
    `grassmann.leading_left_singular_vectors` for where that can run.
    """
    if one_of("svd", method, SVDS) == "randomized":
        return range_finder()

    def leading(refresh: Refresh) -> Float[Array, "*b m r"]:
        grad = finite_or_noise(refresh).astype(refresh.basis.dtype)
        return kept_unless_finite(refresh, grassmann.leading_left_singular_vectors(grad, refresh.basis.shape[-1]))

    return stateless_rule(leading)


def range_finder(power_steps: int = 2) -> SubspaceRule:
    """Near the leading left singular vectors of the gradient, by subspace iteration in matrix
    products only.

    Captured energy against the exact SVD, 512 x 1376 at rank 128: .997/.998 for singular values
      1/k, .884/.893 for k^(-1/2). A gradient of zero gives a random basis.
    """

    def find(refresh: Refresh) -> Float[Array, "*b m r"]:
        grad = refresh.grad.astype(refresh.basis.dtype)
        return kept_unless_finite(
            refresh, grassmann.range_basis(refresh.key, grad, refresh.basis.shape[-1], power_steps)
        )

    return stateless_rule(find)


def dct() -> SubspaceRule:
    """The r vectors of the discrete cosine transform on which the gradient has most energy (Trion,
    DCT-AdamW).

    D_ik = sqrt(2/m) cos(pi (2i + 1) k / 2m), the first column over sqrt(2); S = the columns with
    the largest
    ||(D^T G)_k||. Where weights are smooth along an axis this is near the singular vectors, and it is a choice of
    columns of one matrix that all leaves of the same m share.
    """

    def choose(refresh: Refresh) -> Float[Array, "*b m r"]:
        m, rank = refresh.basis.shape[-2:]
        transform = jnp.broadcast_to(_cosines(m, refresh.basis.dtype), (*refresh.grad.shape[:-2], m, m))
        energy = jnp.sum(jnp.square(grassmann.project(transform, refresh.grad.astype(transform.dtype))), axis=-1)
        chosen = jnp.argsort(-energy)[..., None, :rank]
        return kept_unless_finite(refresh, jnp.take_along_axis(transform, chosen, axis=-1))

    return stateless_rule(choose)


def tracking(step_size: ArrayLike | None = None, tracking_rank: SupportsInt = 1) -> SubspaceRule:
    """A step along the geodesic on which the captured energy of the gradient rises fastest
    (SubTrack, eq. 3-6).

    A = S^T G, R = G - S A, tangent H = 2 R A^T, its `tracking_rank` leading singular triplets (u,
    sigma, v), and
      S' = S + ((cos(theta) - 1) S v + sin(theta) u) v^T  for each.
    `step_size=None` takes the best angle in the plane of S v and u, theta = atan2(2b, a - d) / 2
    with a = ||G^T S v||^2, d = ||G^T u||^2, b = (S v)^T G G^T u, so that the captured energy of
    this gradient never falls; a number is the paper's eta, theta = eta sigma. H is uphill: the
    paper's -2 R A^T with a plus sign before the sine goes down. Needs tracking_rank <= min(r, m -
    r).
    """

    tracking_rank = positive("tracking_rank", tracking_rank)

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        basis, given = refresh.basis, refresh.grad.astype(refresh.basis.dtype)
        grad = grassmann.scaled_to_one(given)
        inside = grassmann.project(basis, grad)
        outside = grad - grassmann.lift(basis, inside)
        tangent = 2 * grassmann.matmul(outside, grassmann.transpose(inside))
        left, sigma, right = grassmann.leading_singular_triplets(tangent, tracking_rank)
        left = grassmann.orthonormal_frame(left, outside=basis)
        if step_size is None:
            angles = _best_angles(grad, inside, left, right)
        else:
            unit = jnp.max(jnp.abs(given), axis=(-2, -1))[..., None]
            present = jnp.any(left != 0, axis=-2)
            angles = jnp.where(present, jnp.asarray(step_size, basis.dtype) * jnp.square(unit) * sigma, 0)
        return kept_unless_finite(refresh, grassmann.exp(basis, left, angles, right)), refresh.rule_state

    return SubspaceRule(turning("tracking_rank", tracking_rank), update, moves=True)


def power_iteration(b1: ArrayLike, blend: ArrayLike = 0.908) -> SubspaceRule:
    """One step of block power iteration from the old basis, on a blend of momentum and gradient
    (LDAdam).

    B = rho S M / (1 - b1^(t-1)) + (1 - rho) G, with M the first moment of the inner optimizer, rho
    = `blend`, and S' = an orthonormal basis of (B B^T + delta I) S. Two deviations from the
    released code, which takes the Q of a QR factorisation of B B^T S: the basis is the polar
    factor, which spans the same subspace without a factorisation and is the nearest to where it
    came from; and delta, 1e-4 of the norm of B B^T S, keeps the directions of S where B B^T has a
    lower rank, the whole of it where B = 0.
    """

    def iterate(refresh: Refresh) -> Float[Array, "*b m r"]:
        basis, rho = refresh.basis, jnp.asarray(blend, refresh.basis.dtype)
        decayed = jnp.asarray(b1, basis.dtype) ** refresh.count.astype(basis.dtype)
        moment = first_moment(refresh.inner_state, b1).astype(basis.dtype) / jnp.where(decayed < 1, 1 - decayed, 1)
        target = rho * grassmann.lift(basis, moment) + (1 - rho) * refresh.grad.astype(basis.dtype)
        target = grassmann.scaled_to_one(target)
        power = grassmann.matmul(target, grassmann.matmul(grassmann.transpose(target), basis))
        norm = jnp.linalg.norm(power, axis=(-2, -1), keepdims=True)
        power = power * (basis.shape[-1] ** 0.5 / jnp.where(norm > 0, norm, 1))
        return kept_unless_finite(refresh, grassmann.orthonormalize(power + _POWER_SHIFT * basis))

    return stateless_rule(iterate, moves=True)


def switch(first: SubspaceRule, then: SubspaceRule, start: ArrayLike) -> SubspaceRule:
    """One rule at the refreshes of the first `start` updates, another from then on (GoLore)."""

    def init(basis_shape: tuple[int, ...], dtype: Any) -> Any:
        return first.init(basis_shape, dtype), then.init(basis_shape, dtype)

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        old, new = refresh.rule_state

        def by_first() -> tuple[Array, Any]:
            basis, state = first.update(refresh._replace(rule_state=old))
            return basis, (state, new)

        def by_then() -> tuple[Array, Any]:
            basis, state = then.update(refresh._replace(rule_state=new))
            return basis, (old, state)

        return lax.cond(refresh.count < start, by_first, by_then)

    # Not keyed, whatever the two are: which of them drew a basis is a matter of count.
    return SubspaceRule(init, update, first.orthonormal and then.orthonormal, moves=first.moves or then.moves)


def _cosines(m: int, dtype: Any) -> Float[Array, "m m"]:
    """The orthonormal DCT-II as columns."""
    rows, columns = jnp.arange(m)[:, None], jnp.arange(m)[None]
    # The phase is reduced as an integer: as a float it would lose the digits of a large m.
    phase = ((2 * rows + 1) * columns) % (4 * m)
    waves = jnp.cos(jnp.asarray(math.pi / (2 * m), dtype) * phase.astype(dtype)) * (2 / m) ** 0.5
    return jnp.where(columns == 0, jnp.asarray(0.5**0.5, dtype), jnp.asarray(1, dtype)) * waves


def _best_angles(
    grad: Float[Array, "*b m n"],
    inside: Float[Array, "*b r n"],
    left: Float[Array, "*b m k"],
    right: Float[Array, "*b r k"],
) -> Float[Array, "*b k"]:
    """The angle of each plane (S v, u) at which cos S v + sin u captures most of the gradient."""
    kept, offered = grassmann.project(right, inside), grassmann.project(left, grad)  # (..., k, n)
    a, d, b = (jnp.sum(x * y, axis=-1) for x, y in ((kept, kept), (offered, offered), (kept, offered)))
    return jnp.arctan2(2 * b, a - d) / 2
