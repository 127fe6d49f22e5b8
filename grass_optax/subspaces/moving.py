"""Rules that move the old basis by what the gradient says of it.

If the gradient is not finite, the basis stays as it is. Both need a first basis from another rule.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import positive
from grass_optax._inner.states import first_moment
from grass_optax._linalg import grassmann
from grass_optax._linalg.orthonormal import orthonormal_frame, orthonormalize
from grass_optax._linalg.products import lift, matmul, project, scaled_to_one, transpose
from grass_optax._linalg.spectral import leading_singular_triplets
from grass_optax.subspaces.rule import Refresh, SubspaceRule, kept_unless_finite, stateless_rule, turning

# Weight of the old basis in a power iteration: it keeps the rank where the gradient's is lower.
_POWER_SHIFT = 1e-4


def tracking(step_size: ArrayLike | None = None, tracking_rank: int = 1) -> SubspaceRule:
    """A step along the geodesic on which the captured energy rises fastest (SubTrack, eq. 3-6).

    With g = S^T G, R = G - S g and the tangent H = 2 R g^T, which is uphill (the paper's -2 R g^T
    goes down), for each of its leading singular triplets (u, sigma, v)::

      S' = S + ((cos(theta) - 1) S v + sin(theta) u) v^T

    Without a step size the angle in each plane of S v and u is the one that captures most of this
    gradient, whose captured energy then never falls. With x = v^T g and y = u^T G, rows of n::

      theta = atan2(2 x y^T, x x^T - y y^T) / 2

    Args:
      step_size: the paper's eta, theta = eta sigma. None takes the angle above.
      tracking_rank: the number of triplets, at most min(r, m - r), or `init` raises an error.

    Returns:
      A rule without state; its S (m, r) is orthonormal. It needs a first basis.

    Examples:
      >>> at = subspaces.Refresh(jax.random.key(0), 1, jnp.ones((2, 3)), jnp.eye(2, 1), None, None)
      >>> subspaces.tracking().update(at)[0].T.round(4)
      Array([[0.7071, 0.7071]], dtype=float32)

    References:
      Rajabi et al., `SubTrack++ <https://arxiv.org/abs/2502.01586>`_, 2025
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
        new = grassmann.exp_frames(basis, left, angles, right)
        return kept_unless_finite(refresh, new), refresh.rule_state

    return SubspaceRule(init=turning("tracking_rank", tracking_rank), update=update, moves=True)


def power_iteration(b1: ArrayLike, blend: ArrayLike = 0.908) -> SubspaceRule:
    """One step of block power iteration from the old basis (LDAdam).

    It iterates on a blend of momentum and gradient, with M the inner first moment::

      B = rho S M / (1 - b1^(t-1)) + (1 - rho) G
      S' = an orthonormal basis of (B B^T + delta I) S

    The released code takes Q of a QR factorisation. Here S' is the polar factor, of the same span
    but nearest to S. delta = 1e-4 ||B B^T S||_F / sqrt(r) keeps S where B B^T has a lower rank.

    Args:
      b1: the decay rate of the inner first moment.
      blend: rho, the weight of the momentum.

    Returns:
      A rule without state; its S (m, r) is orthonormal. It needs a first basis.

    Examples:
      >>> key, grad, mu = jax.random.key(0), jnp.ones((2, 3)), optax.TraceState(jnp.zeros((1, 3)))
      >>> at = subspaces.Refresh(key, jnp.int32(1), grad, jnp.eye(2, 1), mu, None)
      >>> subspaces.power_iteration(b1=0.9).update(at)[0].T.round(3)
      Array([[0.707, 0.707]], dtype=float32)

    References:
      Robert et al., `LDAdam <https://arxiv.org/abs/2410.16103>`_, 2024
    """

    def iterate(refresh: Refresh) -> Float[Array, "m r"]:
        basis, rho = refresh.basis, jnp.asarray(blend, refresh.basis.dtype)
        decayed = jnp.asarray(b1, basis.dtype) ** refresh.count.astype(basis.dtype)
        moment = first_moment(refresh.inner_state, b1).astype(basis.dtype)
        moment = moment / jnp.where(decayed < 1, 1 - decayed, 1)
        target = rho * lift(basis, moment) + (1 - rho) * refresh.grad.astype(basis.dtype)
        target = scaled_to_one(target)
        power = matmul(target, matmul(transpose(target), basis))
        return kept_unless_finite(refresh, orthonormalize(with_some_of(power, basis)))

    return stateless_rule(iterate, moves=True)


def with_some_of(power: Float[Array, "m r"], basis: Float[Array, "m r"]) -> Float[Array, "m r"]:
    """The result of a power iteration, plus a little of S, so that its rank stays r."""
    norm = jnp.linalg.norm(power)
    return power * (basis.shape[-1] ** 0.5 / jnp.where(norm > 0, norm, 1)) + _POWER_SHIFT * basis


def _best_angles(
    grad: Float[Array, "m n"],
    inside: Float[Array, "r n"],
    left: Float[Array, "m k"],
    right: Float[Array, "r k"],
) -> Float[Array, "k"]:
    """The angle of each plane (S v, u) that captures most of the gradient."""
    kept, offered = project(right, inside), project(left, grad)  # (..., k, n)
    a, d, b = (jnp.sum(x * y, axis=-1) for x, y in ((kept, kept), (offered, offered), (kept, offered)))
    return jnp.arctan2(2 * b, a - d) / 2
