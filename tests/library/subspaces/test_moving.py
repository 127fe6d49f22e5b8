"""What a step of tracking promises: captured energy rises, bases stay orthonormal, tall matrices
move as wide ones. And a power iteration: it turns towards the leading singular vectors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import grassmann, subspaces
from tests import tolerances
from tests.oracles.tracking import captured
from tests.util import basis_of, grads_like, long_but, run

SHAPE, RANK, REFRESHES = (12, 30), 4, 150


def refreshed(rule, grad):
    """The bases of many refreshes on one gradient, from a random one."""

    def step(basis, count):
        refresh = subspaces.Refresh(jax.random.key(0), count, grad, basis, None, optax.EmptyState())
        basis = rule.update(refresh)[0]
        return basis, basis

    start = grassmann.random_basis(jax.random.key(1), (SHAPE[0], RANK), grad.dtype)
    bases = jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(1, REFRESHES + 1, dtype=jnp.int32))[1])()
    return np.asarray([start, *bases])


def energies(step_size, tracking_rank):
    with jax.enable_x64(True):
        grad = jax.random.normal(jax.random.key(2), SHAPE, jnp.float64)
        bases = refreshed(subspaces.tracking(step_size, tracking_rank), grad)
        best = np.sum(np.linalg.svd(np.asarray(grad))[1][:RANK] ** 2)
        return np.array([captured(S, np.asarray(grad)) for S in bases]) / best


@pytest.mark.parametrize("tracking_rank", [1, 3])
def test_best_angles_raise_the_captured_energy_to_that_of_the_svd(tracking_rank):
    energy = energies(None, tracking_rank)
    assert np.all(np.diff(energy) > -tolerances.ORACLE64)
    assert energy[0] < 0.8
    assert 0.999 < energy[-1] < 1 + tolerances.ORACLE64


def test_a_small_step_raises_it_and_a_large_one_does_not():
    """The slope is uphill, and eta without bound turns by any angle: then it falls at some
    refreshes.
    """
    assert np.all(np.diff(energies(1e-3, 1))[:20] > 0)
    assert np.diff(energies(10.0, 1)).min() < -0.01


@pytest.mark.parametrize("decay", [0.0, 4.0])
def test_bases_stay_orthonormal_whatever_the_tangent(decay):
    """Of a gradient like the identity the tangent is rounding; of one with singular values exp(-4
    k) all but the first of its singular values are: what a product gives of their frames is not
    orthonormal.
    """
    left, right = (grassmann.random_basis(jax.random.key(n), (n, SHAPE[0]), jnp.float32) for n in SHAPE)
    grad = left * jnp.exp(-decay * jnp.arange(SHAPE[0], dtype=jnp.float32))[None] @ right.T
    bases = refreshed(subspaces.tracking(None, 3), grad)
    assert grassmann.orthonormality_error(jnp.asarray(bases)).max() < tolerances.ORTHONORMAL32_AFTER_1000


@pytest.mark.parametrize(
    ("method", "step_size"), long_but([("subtrack_grad", 10.0)], [("subtrack", None), ("subtrack_grad", 10.0)])
)
def test_a_tall_matrix_moves(method, step_size):
    """As its transpose does, at every refresh; the released code leaves it where it is."""
    tx = getattr(grass_optax, f"scale_by_{method}")(rank=3, update_proj_gap=2, step_size=step_size)
    with jax.enable_x64(True):  # in float32 the roundings of seven steps reach 1e-5
        tall = {"x": jnp.zeros((16, 6))}
        updates, states = run(tx, tall, 7)
        update, state = jax.jit(tx.update), tx.init({"x": jnp.zeros((6, 16))})
        for t in range(7):
            grad = jax.tree.map(jnp.transpose, grads_like(tall, t))
            wide, state = update(grad, state)
            np.testing.assert_allclose(updates[t]["x"].T, wide["x"], rtol=1e-11, atol=1e-11)
            if t in (2, 4, 6):
                one, other = (basis_of(states[i])["x"] for i in (t, t - 1))
                assert np.arccos(grassmann.principal_cosines(one, other)[-1]) > 1e-3


def test_a_power_iteration_turns_towards_the_leading_singular_vectors():
    """Without momentum the cosines to them rise at every refresh, by the squared ratio of singular
    values.
    """
    with jax.enable_x64(True):
        left, right = (grassmann.random_basis(jax.random.key(n), (n, 6), jnp.float64) for n in SHAPE)
        grad = left @ jnp.diag(jnp.array([8.0, 7.0, 6.0, 5.0, 1.0, 0.5])) @ right.T
        momentum = optax.TraceState(jnp.zeros((RANK, SHAPE[1])))

        def step(basis, count):
            refresh = subspaces.Refresh(jax.random.key(0), count, grad, basis, momentum, optax.EmptyState())
            basis = subspaces.power_iteration(b1=0.9, blend=0.0).update(refresh)[0]
            return basis, grassmann.principal_cosines(basis, left[:, :RANK])[-1]

        start = grassmann.random_basis(jax.random.key(1), (SHAPE[0], RANK), jnp.float64)
        cosines = np.asarray(jax.lax.scan(step, start, jnp.arange(1, 6, dtype=jnp.int32))[1])
        tangents = np.sqrt(1 / cosines**2 - 1)
        np.testing.assert_array_less(tangents[1:], 1.1 * (1 / 5) ** 2 * tangents[:-1] + 1e-3)
        assert cosines[-1] > 1 - 1e-6
