"""Rules that take gradient steps on the basis itself.

Their bases drift from orthonormal, and nothing pulls them back.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import positive
from grass_optax._inner.states import first_moment
from grass_optax._linalg.dtypes import wide
from grass_optax._linalg.orthonormal import orthonormalize
from grass_optax._linalg.products import (
    lift,
    matmul,
    project,
    rotation,
    scaled_to_one,
    transpose,
)
from grass_optax._linalg.spectral import leading_left_singular_vectors, range_basis
from grass_optax.subspaces.rule import (
    Refresh,
    SubspaceRule,
    finite_or_noise,
    kept_unless_finite,
    no_state,
)

# The released codes' constants: AdamW's of PyTorch for online descent, plain SGD's for COAP.
_DESCENT_DECAY = 0.01
_DESCENT_B1, _DESCENT_B2, _DESCENT_EPS = 0.9, 0.999, 1e-8
_COAP_RATE = 0.1
_COAP_CLIP = 1.0
_COSINE_EPS = 1e-8


def online_descent(step_size: ArrayLike) -> SubspaceRule:
    """An AdamW step on the basis at every refresh (Online Subspace Descent).

    It goes down ||S S^T G' - G'||_F^2 with G' = G / ||G||_F::

      S <- S - step_size (Mh / (sqrt(Vh) + 1e-8) + 0.01 S)

    with AdamW's moments of 2 (S g g^T + G' g^T (S^T S - 2 I)), g = S^T G'. The gradient of one
    update moves the basis of the next: the step uses the stored moments, and only then are these
    updated with the gradient. That is why this is not `optax.scale_by_adam`. The first basis is
    that of the `range_finder`.

    Args:
      step_size: the learning rate of the basis. Entries of S are of the order of 1/sqrt(m), so a
        step near 1 destroys it.

    Returns:
      A rule whose state is 2mr numbers and a count; its S (m, r) drifts from orthonormal.

    Examples:
      >>> rule, grad, old = subspaces.online_descent(0.01), jnp.ones((2, 3)), jnp.eye(2, 1)
      >>> state = rule.init((2, 1), jnp.float32)
      >>> for i in range(200):
      ...     at = subspaces.Refresh(jax.random.key(0), jnp.int32(i), grad, old, None, state)
      ...     old, state = rule.update(at)
      >>> old.T.round(1)  # all entries of this gradient are alike
      Array([[0.7, 0.7]], dtype=float32)

    References:
      Liang et al., `Memory-Efficient LLM Training with Online Subspace Descent
      <https://arxiv.org/abs/2408.12857>`_, 2024
    """

    def init(basis_shape: tuple[int, int], dtype: Any) -> optax.ScaleByAdamState:
        # Two arrays: a buffer that is in a state twice cannot be donated.
        mu, nu = (jnp.zeros(basis_shape, wide(dtype)) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        grad, state = refresh.grad.astype(refresh.basis.dtype), refresh.rule_state
        if refresh.first:
            basis = range_basis(refresh.key, grad, refresh.basis.shape[-1])
        else:
            basis = _descended(refresh.basis, state, step_size)
        finite = jnp.all(jnp.isfinite(grad))
        slope = _reconstruction_slope(basis, grad)
        squares = jnp.square(slope)
        mu = jnp.where(finite, _DESCENT_B1 * state.mu + (1 - _DESCENT_B1) * slope, state.mu)
        nu = jnp.where(finite, _DESCENT_B2 * state.nu + (1 - _DESCENT_B2) * squares, state.nu)
        return basis, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return SubspaceRule(init=init, update=update, orthonormal=False)


def coap(svd_gap: int) -> SubspaceRule:
    """A clipped SGD step on the basis at most refreshes, and a cheap SVD at the others (COAP).

    The step, of 0.1 times a gradient clipped to norm 1, goes down::

      mean((S S^T G - G)^2) (1 - mean_i cos((S M)_i, G_i))

    over columns i, with M the inner first moment. The cheap SVD takes the left singular vectors of
    G Q, with Q an orthonormal basis of G^T S. The first one starts from a Gaussian S. It is an
    error on a CPU mesh before jaxlib 0.11.

    Args:
      svd_gap: a refresh uses the SVD if the number of updates before it is a multiple of this.

    Returns:
      A rule without state; its S (m, r) is orthonormal after an SVD and drifts from then on.

    Examples:
      >>> grad, mu = jnp.ones((2, 3)), optax.TraceState(jnp.zeros((1, 3)))
      >>> step = subspaces.Refresh(jax.random.key(0), jnp.int32(4), grad, jnp.eye(2, 1), mu, None)
      >>> jnp.abs(subspaces.coap(svd_gap=4).update(step)[0].T).round(3)  # the cheap SVD
      Array([[0.707, 0.707]], dtype=float32)
      >>> subspaces.coap(svd_gap=3).update(step)[0].T.round(3)  # one step of SGD
      Array([[1. , 0.1]], dtype=float32)

    References:
      Xiao et al., `COAP: Memory-Efficient Training with Correlation-Aware Gradient Projection
      <https://arxiv.org/abs/2412.00071>`_, 2024
    """

    svd_gap = positive("svd_gap", svd_gap)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        basis, grad = refresh.basis, finite_or_noise(refresh).astype(refresh.basis.dtype)
        if refresh.first:
            start = jax.random.normal(refresh.key, basis.shape, basis.dtype)
            new = _cheap_svd(start, grad)
        else:
            moment = first_moment(refresh.inner_state, 0.0).astype(basis.dtype)
            new = lax.cond(
                refresh.count % svd_gap == 0,
                lambda: _cheap_svd(basis, grad),
                lambda: _aligned(basis, grad, moment),
            )
        return kept_unless_finite(refresh, new), refresh.rule_state

    return SubspaceRule(init=no_state, update=update, orthonormal=False)


def _descended(basis: Float[Array, "m r"], state: optax.ScaleByAdamState, step_size: ArrayLike) -> Float[Array, "m r"]:
    count = jnp.maximum(state.count, 1).astype(basis.dtype)
    mu_hat = jnp.asarray(state.mu) / (1 - _DESCENT_B1**count)
    nu_hat = jnp.asarray(state.nu) / (1 - _DESCENT_B2**count)
    direction = mu_hat / (jnp.sqrt(nu_hat) + _DESCENT_EPS) + _DESCENT_DECAY * basis
    return basis - jnp.asarray(step_size, basis.dtype) * direction


def _reconstruction_slope(basis: Float[Array, "m r"], grad: Float[Array, "m n"]) -> Float[Array, "m r"]:
    """The gradient of ||S S^T G' - G'||_F^2 with respect to S, with G' = G / ||G||_F."""
    grad = scaled_to_one(grad)
    norm = jnp.linalg.norm(grad)
    grad = grad / jnp.where(norm > 0, norm, 1)
    inside = project(basis, grad)
    crossed = matmul(grad, transpose(inside))
    square = matmul(inside, transpose(inside))
    gram = rotation(basis, basis)
    return 2 * (matmul(basis, square) + matmul(crossed, gram) - 2 * crossed)


def _cheap_svd(basis: Float[Array, "m r"], grad: Float[Array, "m n"]) -> Float[Array, "m r"]:
    sketch = matmul(transpose(grad), basis)
    small = matmul(grad, orthonormalize(sketch))
    return leading_left_singular_vectors(small, basis.shape[-1])


def _aligned(basis: Float[Array, "m r"], grad: Float[Array, "m n"], moment: Float[Array, "r n"]) -> Float[Array, "m r"]:
    def loss(s: Array) -> Array:
        error = lift(s, project(s, grad)) - grad
        return jnp.mean(jnp.square(error)) * (1 - jnp.mean(_cosines(lift(s, moment), grad)))

    slope = jax.grad(loss)(basis)
    norm = jnp.linalg.norm(slope)
    return basis - _COAP_RATE * slope * jnp.minimum(1, _COAP_CLIP / jnp.where(norm > 0, norm, 1))


def _cosines(x: Float[Array, "m n"], y: Float[Array, "m n"]) -> Float[Array, " n"]:
    """The cosine of every pair of columns."""
    product, square, other = (jnp.sum(a * b, axis=-2) for a, b in ((x, y), (x, x), (y, y)))
    return product / jnp.sqrt(jnp.maximum(square * other, _COSINE_EPS**2))
