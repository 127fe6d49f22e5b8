"""The geometry: orthonormality, exactness against NumPy's factorisations, and what happens at the
edges.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grass_optax import grassmann
from grass_optax._linalg import products, spectral
from tests import tolerances

KEY = jax.random.key(0)

ROOT = Path(__file__).parents[3]


def error(basis):
    return float(jnp.max(grassmann.orthonormality_error(basis)))


@settings(max_examples=12, deadline=None)
@given(
    m=st.integers(1, 40), share=st.floats(0, 1), batch=st.lists(st.integers(1, 3), max_size=2), seed=st.integers(0, 99)
)
def test_random_bases_are_orthonormal(m, share, batch, seed):
    rank = 1 + round(share * (m - 1))
    basis = grassmann.random_basis(jax.random.key(seed), (*batch, m, rank), jnp.float32)
    assert basis.shape == (*batch, m, rank)
    assert error(basis) < tolerances.ORTHONORMAL32


@pytest.mark.parametrize("rank", [128, 256, 500, 512])
def test_random_bases_at_size(rank):
    assert error(grassmann.random_basis(KEY, (512, rank), jnp.float32)) < tolerances.ORTHONORMAL32


def test_random_bases_in_float64():
    with jax.enable_x64(True):
        assert error(grassmann.random_basis(KEY, (64, 32), jnp.float64)) < tolerances.ORTHONORMAL64


def test_random_bases_are_uniform():
    """The mean projector of Haar subspaces is (r/m) I: no direction is preferred."""
    bases = grassmann.random_basis(KEY, (4000, 6, 2), jnp.float32)
    projectors = products.matmul(bases, products.transpose(bases))
    # the standard error of an entry's mean is at most 0.5 / sqrt(4000) = 0.008
    np.testing.assert_allclose(projectors.mean(0), np.eye(6) / 3, atol=0.04)


def test_polar_factor_is_that_of_the_svd():
    with jax.enable_x64(True):
        x = (
            jax.random.normal(KEY, (2, 30, 10), jnp.float64) * jnp.logspace(0, -6, 10)[None, None]
        )  # condition number 1e6
        u, _, vt = np.linalg.svd(np.asarray(x), full_matrices=False)
        np.testing.assert_allclose(grassmann.orthonormalize(x), u @ vt, atol=1e-8)


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_orthonormalize_has_no_scale(size):
    x = jax.random.normal(KEY, (30, 10))
    expected = grassmann.orthonormalize(x)
    np.testing.assert_allclose(grassmann.orthonormalize(size * x), expected, atol=tolerances.ORTHONORMAL32)


def test_unit_columns():
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
    moved = grassmann.exp(basis, left, angles, right)
    assert error(moved) < tolerances.ORTHONORMAL32
    cosines = grassmann.principal_cosines(moved, basis)
    np.testing.assert_allclose(cosines, [1, 1, *np.cos([0.2, 0.7, 1.1])], atol=1e-6)
    for turns in (0, 2 * np.pi):
        np.testing.assert_allclose(grassmann.exp(basis, left, 0 * angles + turns, right), basis, atol=2e-6)
    tangent = np.asarray(left) * np.asarray(angles) @ np.asarray(right).T
    u, s, vt = np.linalg.svd(tangent, full_matrices=False)
    by_paper = np.asarray(basis) @ vt.T @ np.diag(np.cos(s)) @ vt + u @ np.diag(np.sin(s)) @ vt
    np.testing.assert_allclose(moved, by_paper, atol=2e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_tangent_frames(k):
    basis = grassmann.random_basis(KEY, (2, 12, 5), jnp.float32)
    left, right = grassmann.random_tangent_frames(jax.random.key(1), basis, k)
    assert (left.shape, right.shape) == ((2, 12, k), (2, 5, k))
    assert max(error(left), error(right)) < tolerances.ORTHONORMAL32
    assert jnp.max(jnp.abs(grassmann.project(basis, left))) < tolerances.ORTHONORMAL32


def low_rank(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (64, 5)) @ jax.random.normal(b, (5, 100))


GRADS = {
    "full": jax.random.normal(KEY, (64, 100)),
    "rank 5 below r": low_rank(KEY),
    "zero": jnp.zeros((64, 100)),
    "one entry": jnp.zeros((64, 100)).at[3, 4].set(1e-20),
    "nan": jax.random.normal(KEY, (64, 100)).at[3, 4].set(jnp.nan),
    "inf": jax.random.normal(KEY, (64, 100)).at[3, 4].set(-jnp.inf),
    "tiny": 1e-30 * jax.random.normal(KEY, (64, 100)),
    "huge": 1e30 * jax.random.normal(KEY, (64, 100)),
}


@pytest.mark.parametrize("grad", GRADS)
def test_range_basis_is_orthonormal_whatever_it_is_given(grad):
    assert error(spectral.range_basis(KEY, GRADS[grad], 16)) < tolerances.ORTHONORMAL32


def test_one_bad_matrix_of_a_batch_leaves_the_others_alone():
    good, bad = GRADS["full"], GRADS["nan"]
    basis = spectral.range_basis(KEY, jnp.stack([good, bad]), 16)
    assert captured(basis[0], good) > 0.9 * best(good, 16)
    assert error(basis) < tolerances.ORTHONORMAL32


def captured(basis, grad):
    return float(jnp.linalg.norm(grassmann.project(basis, grad)) / jnp.linalg.norm(grad))


def best(grad, rank):
    s = np.linalg.svd(np.asarray(grad), compute_uv=False)
    return float(np.linalg.norm(s[:rank]) / np.linalg.norm(s))


@pytest.mark.parametrize(("decay", "share"), [(1.0, 0.99), (0.5, 0.97), (0.0, 0.9)])
def test_range_basis_captures_what_the_svd_captures(decay, share):
    a, b = (
        grassmann.random_basis(k, (n, 64), jnp.float32) for k, n in zip(jax.random.split(KEY), (64, 200), strict=True)
    )
    grad = a * jnp.arange(1.0, 65.0)[None] ** -decay @ b.T
    rank = 16
    noise_floor = (rank / 64) ** 0.5
    assert captured(spectral.range_basis(KEY, grad, rank), grad) > share * best(grad, rank)
    if decay:
        assert best(grad, rank) > 1.3 * noise_floor  # a random basis would not do


def test_range_basis_finds_the_whole_range():
    grad = GRADS["rank 5 below r"]
    assert captured(spectral.range_basis(KEY, grad, 16), grad) > 1 - 1e-5


ON_A_MESH = """
import jax, jax.numpy as jnp, grass_optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
params = jax.device_put(jnp.ones((8, 16)), NamedSharding(mesh, PartitionSpec("data", None)))
for svd in ("randomized", "exact"):
    tx = grass_optax.galore(0.1, rank=2, svd=svd)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    print(svd, bool(jnp.all(jnp.isfinite(updates))))
"""


def test_exact_svd_on_a_mesh_of_cpu_devices():
    """Where it would hang it is an error that says what to do; the randomized one runs
    everywhere.
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-c", ON_A_MESH], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert "randomized True" in process.stdout
    if jax.__version_info__ >= (0, 11):
        assert "exact True" in process.stdout
    else:
        assert process.returncode != 0
        assert "NotImplementedError: an exact SVD of a matrix on a mesh of CPU devices hangs" in process.stderr
        assert 'Use svd="randomized" or a rule without' in process.stderr
