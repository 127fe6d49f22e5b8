"""Rules that take gradient steps on the basis itself. Their bases drift from orthonormal, and
nothing pulls them back.

Members: online_descent, coap.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._inner.states import first_moment
from grass_optax._linalg import grassmann
from grass_optax.subspaces.rule import Refresh, SubspaceRule, finite_or_noise, kept_unless_finite, no_state

# The released codes' constants: AdamW's of PyTorch for online descent, plain SGD's for COAP.
_DESCENT_DECAY = 0.01
_DESCENT_B1, _DESCENT_B2, _DESCENT_EPS = 0.9, 0.999, 1e-8
_COAP_RATE = 0.1
_COAP_CLIP = 1.0
_COSINE_EPS = 1e-8


def online_descent(step_size: ArrayLike) -> SubspaceRule:
    """An AdamW step on the basis at every refresh, down ||S S^T G' - G'||_F^2 with G' = G / ||G||_F
    (Online Subspace Descent).

    S <- S - step_size (Mh / (sqrt(Vh) + 1e-8) + 0.01 S), with AdamW's moments of
      2 (S A A^T + G' A^T (S^T S - 2 I)),  A = S^T G'.
    `step_size` is a learning rate: entries of S are of the order of 1/sqrt(m), and a step near 1
    tears it apart. The gradient of an update moves the basis of the next: the step is taken from
    the moments that the state holds, and then they take in this gradient. The first basis is that
    of the `range_finder`. State: 2mr numbers.
    """

    def init(basis_shape: tuple[int, ...], dtype: Any) -> optax.ScaleByAdamState:
        # Two arrays: a buffer that is in a state twice cannot be donated.
        mu, nu = (jnp.zeros(basis_shape, grassmann.wide(dtype)) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        grad, state = refresh.grad.astype(refresh.basis.dtype), refresh.rule_state
        if refresh.first:
            basis = grassmann.range_basis(refresh.key, grad, refresh.basis.shape[-1])
        else:
            basis = _descended(refresh.basis, state, step_size)
        finite = jnp.all(jnp.isfinite(grad), axis=(-2, -1), keepdims=True)
        slope = _reconstruction_slope(basis, grad)
        mu = jnp.where(finite, _DESCENT_B1 * state.mu + (1 - _DESCENT_B1) * slope, state.mu)
        nu = jnp.where(finite, _DESCENT_B2 * state.nu + (1 - _DESCENT_B2) * jnp.square(slope), state.nu)
        return basis, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return SubspaceRule(init, update, orthonormal=False)


def coap(recompute_every: int) -> SubspaceRule:
    """A clipped SGD step on the basis at a refresh, and a cheap SVD at those after a multiple of
    `recompute_every` updates (COAP).

    The step, of 0.1 times a gradient clipped to norm 1, is down
      mean((S S^T G - G)^2) (1 - mean_i cos((S M)_i, G_i)),  over columns i, with M the inner first moment.
    The cheap SVD is of G Q, with Q an orthonormal basis of G^T S: its left singular vectors. The
    first one starts from a Gaussian S.
    """

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        basis, grad = refresh.basis, finite_or_noise(refresh).astype(refresh.basis.dtype)
        if refresh.first:
            start = jax.random.normal(refresh.key, basis.shape, basis.dtype)
            new = _cheap_svd(start, grad)
        else:
            moment = first_moment(refresh.inner_state, 0.0).astype(basis.dtype)
            due = refresh.count % recompute_every == 0
            new = lax.cond(due, lambda: _cheap_svd(basis, grad), lambda: _aligned(basis, grad, moment))
        return kept_unless_finite(refresh, new), refresh.rule_state

    return SubspaceRule(no_state, update, orthonormal=False)


def _descended(
    basis: Float[Array, "*b m r"], state: optax.ScaleByAdamState, step_size: ArrayLike
) -> Float[Array, "*b m r"]:
    count = jnp.maximum(state.count, 1).astype(basis.dtype)
    mu_hat = jnp.asarray(state.mu) / (1 - _DESCENT_B1**count)
    nu_hat = jnp.asarray(state.nu) / (1 - _DESCENT_B2**count)
    direction = mu_hat / (jnp.sqrt(nu_hat) + _DESCENT_EPS) + _DESCENT_DECAY * basis
    return basis - jnp.asarray(step_size, basis.dtype) * direction


def _reconstruction_slope(basis: Float[Array, "*b m r"], grad: Float[Array, "*b m n"]) -> Float[Array, "*b m r"]:
    """The gradient of ||S S^T G' - G'||_F^2 by S, G' = G / ||G||_F."""
    grad = grassmann.scaled_to_one(grad)
    norm = jnp.linalg.norm(grad, axis=(-2, -1), keepdims=True)
    grad = grad / jnp.where(norm > 0, norm, 1)
    inside = grassmann.project(basis, grad)
    crossed = grassmann.matmul(grad, grassmann.transpose(inside))
    square = grassmann.matmul(inside, grassmann.transpose(inside))
    gram = grassmann.rotation(basis, basis)
    return 2 * (grassmann.matmul(basis, square) + grassmann.matmul(crossed, gram) - 2 * crossed)


def _cheap_svd(basis: Float[Array, "*b m r"], grad: Float[Array, "*b m n"]) -> Float[Array, "*b m r"]:
    sketch = grassmann.matmul(grassmann.transpose(grad), basis)
    small = grassmann.matmul(grad, grassmann.orthonormalize(sketch))
    return grassmann.leading_left_singular_vectors(small, basis.shape[-1])


def _aligned(
    basis: Float[Array, "*b m r"], grad: Float[Array, "*b m n"], moment: Float[Array, "*b r n"]
) -> Float[Array, "*b m r"]:
    def loss(s: Array) -> Array:
        error = grassmann.lift(s, grassmann.project(s, grad)) - grad
        lifted = grassmann.lift(s, moment)
        product, one, other = (jnp.sum(a * b, axis=-2) for a, b in ((lifted, grad), (lifted, lifted), (grad, grad)))
        cosine = product / jnp.sqrt(jnp.maximum(one * other, _COSINE_EPS**2))
        per_matrix = jnp.mean(jnp.square(error), axis=(-2, -1)) * (1 - jnp.mean(cosine, axis=-1))
        return jnp.sum(per_matrix)

    slope = jax.grad(loss)(basis)
    norm = jnp.linalg.norm(slope, axis=(-2, -1), keepdims=True)
    return basis - _COAP_RATE * slope * jnp.minimum(1, _COAP_CLIP / jnp.where(norm > 0, norm, 1))
