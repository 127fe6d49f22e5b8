"""Rules that take gradient steps on the basis: both go down what they say they go down."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import grassmann, subspaces
from tests import tolerances

M, N, RANK = 8, 24, 3
GRAD = jax.random.normal(jax.random.key(2), (M, N))


def refreshes(rule, grad, counts, inner_state=None):
    """The bases of several refreshes, the first without an old one."""
    basis, state, bases = jnp.zeros((M, RANK)), rule.init((M, RANK), jnp.float32), []
    for i, count in enumerate(counts):
        at = subspaces.Refresh(jax.random.key(0), jnp.int32(count), grad, basis, inner_state, state, first=i == 0)
        basis, state = rule.update(at)
        bases.append(basis)
    return bases, state


def lost(basis, grad):
    """The share of the gradient's energy that a basis does not reconstruct."""
    basis, grad = (np.asarray(x, np.float64) for x in (basis, grad))
    return np.sum((basis @ (basis.T @ grad) - grad) ** 2) / np.sum(grad**2)


def test_online_descent_goes_down_the_reconstruction_error_to_what_is_not_in_the_leading_vectors():
    values = np.linalg.svd(np.asarray(GRAD))[1] ** 2
    least = 1 - values[:RANK].sum() / values.sum()
    bases, _ = refreshes(subspaces.online_descent(0.02), GRAD, range(300))
    errors = [lost(b, GRAD) for b in bases]
    assert errors[-1] < least + 0.03
    bases, _ = refreshes(subspaces.online_descent(0.02), jnp.roll(GRAD, 3, axis=0), [0])
    moved, _ = refreshes_from(subspaces.online_descent(0.02), bases[0], GRAD, 300)
    assert lost(moved, GRAD) < lost(bases[0], GRAD) - 0.1


def refreshes_from(rule, basis, grad, steps):
    """The basis after many steps on one gradient, from a given one."""
    state = rule.init(basis.shape, basis.dtype)
    for count in range(1, steps + 1):
        at = subspaces.Refresh(jax.random.key(0), jnp.int32(count), grad, basis, None, state)
        basis, state = rule.update(at)
    return basis, state


def test_a_gradient_moves_the_basis_of_the_next_update():
    """The step uses the stored moments, and they are zero at first: only the decay is left."""
    rule = subspaces.online_descent(0.5)
    old = grassmann.random_basis(jax.random.key(1), (M, RANK), jnp.float32)
    basis, state = refreshes_from(rule, old, GRAD, 1)
    np.testing.assert_allclose(basis, (1 - 0.5 * 0.01) * old, rtol=1e-6)
    assert float(jnp.abs(state.mu).max()) > 0


def test_the_moments_of_online_descent_rest_while_the_gradient_is_not_finite():
    rule = subspaces.online_descent(0.1)
    basis, state = refreshes_from(rule, jnp.eye(M, RANK), GRAD, 2)
    at = subspaces.Refresh(jax.random.key(0), jnp.int32(3), GRAD.at[0, 0].set(jnp.nan), basis, None, state)
    basis, after = rule.update(at)
    np.testing.assert_array_equal(after.mu, state.mu)
    np.testing.assert_array_equal(after.nu, state.nu)
    assert jnp.all(jnp.isfinite(basis))


def test_coap_factorises_at_its_interval_and_takes_clipped_steps_between():
    moment = optax.TraceState(jax.random.normal(jax.random.key(4), (RANK, N)))
    bases, _ = refreshes(subspaces.coap(svd_gap=4), GRAD, [0, 2, 4, 6], moment)
    of_svd = [float(grassmann.orthonormality_error(b)) < tolerances.ORTHONORMAL32 for b in bases]
    assert of_svd == [True, False, True, False]
    for before, after in ((bases[0], bases[1]), (bases[2], bases[3])):
        assert 0 < float(jnp.linalg.norm(after - before)) <= 0.1 * (1 + 1e-6)  # rate 0.1, gradient clipped to 1


@pytest.mark.long
def test_coaps_cheap_svd_approaches_the_leading_singular_vectors():
    """Of a gradient whose singular values halve, by a factor of four at every refresh."""
    left, right = (grassmann.random_basis(jax.random.key(n), (n, 6), jnp.float32) for n in (M, N))
    grad = left @ jnp.diag(0.5 ** jnp.arange(6.0)) @ right.T
    bases, _ = refreshes(subspaces.coap(svd_gap=1), grad, range(12), optax.TraceState(jnp.ones((RANK, N))))
    assert grassmann.principal_cosines(bases[0], left[:, :RANK])[-1] < 0.99
    np.testing.assert_allclose(grassmann.principal_cosines(bases[-1], left[:, :RANK]), 1, atol=1e-5)
