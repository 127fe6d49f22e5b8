"""Points, tangents and geodesics of the Grassmannian: random bases, frames, the exponential map."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grass_optax import grassmann
from grass_optax._linalg import products
from tests import tolerances
from tests.util import long_but

KEY = jax.random.key(0)
ROOT = Path(__file__).parents[3]


def error(basis):
    return float(jnp.max(grassmann.orthonormality_error(basis)))


@settings(max_examples=6, deadline=None)
@given(
    m=st.integers(1, 40), share=st.floats(0, 1), batch=st.lists(st.integers(1, 3), max_size=2), seed=st.integers(0, 99)
)
def test_random_bases_are_orthonormal(m, share, batch, seed):
    rank = 1 + round(share * (m - 1))
    basis = grassmann.random_basis(jax.random.key(seed), (*batch, m, rank), jnp.float32)
    assert basis.shape == (*batch, m, rank)
    assert error(basis) < tolerances.ORTHONORMAL32


@pytest.mark.parametrize("rank", [128, 256, 500, 512])
def test_random_bases_are_orthonormal_at_the_size_of_a_model(rank):
    assert error(grassmann.random_basis(KEY, (512, rank), jnp.float32)) < tolerances.ORTHONORMAL32


def test_random_bases_are_orthonormal_to_float64():
    with jax.enable_x64(True):
        assert error(grassmann.random_basis(KEY, (64, 32), jnp.float64)) < tolerances.ORTHONORMAL64


def test_random_bases_are_uniform():
    """The mean projector of Haar subspaces is (r/m) I: no direction is preferred."""
    bases = grassmann.random_basis(KEY, (4000, 6, 2), jnp.float32)
    projectors = products.matmul(bases, products.transpose(bases))
    # the standard error of an entry's mean is at most 0.5 / sqrt(4000) = 0.008
    np.testing.assert_allclose(projectors.mean(0), np.eye(6) / 3, atol=0.04)


def test_bases_of_unit_columns_are_not_orthonormal():
    basis = grassmann.random_basis(KEY, (3, 50, 20), jnp.float32, orthonormal=False)
    np.testing.assert_allclose(jnp.linalg.norm(basis, axis=-2), 1, rtol=1e-6)
    assert error(basis) > 0.1


def test_exp_follows_the_geodesic():
    """S(0) = S, the principal angles are the angles asked for, S(2 pi) = S, and a full-rank tangent
    agrees with eq. 4.
    """
    basis = grassmann.random_basis(KEY, (20, 5), jnp.float32)
    left, right = grassmann.random_tangent_frames(jax.random.key(1), basis, 3)
    angles = jnp.asarray([0.2, 0.7, 1.1])
    moved = grassmann.exp_frames(basis, left, angles, right)
    assert error(moved) < tolerances.ORTHONORMAL32
    cosines = grassmann.principal_cosines(moved, basis)
    np.testing.assert_allclose(cosines, [1, 1, *np.cos([0.2, 0.7, 1.1])], atol=1e-6)
    for turns in (0, 2 * np.pi):
        np.testing.assert_allclose(grassmann.exp_frames(basis, left, 0 * angles + turns, right), basis, atol=2e-6)
    tangent = np.asarray(left) * np.asarray(angles) @ np.asarray(right).T
    u, s, vt = np.linalg.svd(tangent, full_matrices=False)
    by_paper = np.asarray(basis) @ vt.T @ np.diag(np.cos(s)) @ vt + u @ np.diag(np.sin(s)) @ vt
    np.testing.assert_allclose(moved, by_paper, atol=2e-6)


@pytest.mark.parametrize("k", long_but([3], [1, 3, 5]))
def test_tangent_frames_are_orthonormal_and_tangent(k):
    basis = grassmann.random_basis(KEY, (2, 12, 5), jnp.float32)
    left, right = grassmann.random_tangent_frames(jax.random.key(1), basis, k)
    assert (left.shape, right.shape) == ((2, 12, k), (2, 5, k))
    assert max(error(left), error(right)) < tolerances.ORTHONORMAL32
    assert jnp.max(jnp.abs(grassmann.project(basis, left))) < tolerances.ORTHONORMAL32
