"""Bases of the range of a gradient, beside those of an SVD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from grass_optax import grassmann
from grass_optax._linalg import spectral
from tests import tolerances
from tests.util import long_but

KEY = jax.random.key(0)


def error(basis):
    return float(jnp.max(grassmann.orthonormality_error(basis)))


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


@pytest.mark.parametrize(
    ("decay", "share"), long_but([(1.0, 0.99), (0.0, 0.9)], [(1.0, 0.99), (0.5, 0.97), (0.0, 0.9)])
)
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


def test_range_basis_is_the_leading_singular_vectors_in_order():
    """Up to sign: Adam on coordinates in another rotation takes other steps."""
    left, right = (grassmann.random_basis(jax.random.key(n), (n, 8), jnp.float32) for n in (64, 100))
    grad = left @ jnp.diag(jnp.arange(8.0, 0.0, -1.0)) @ right.T
    cosines = np.asarray(spectral.range_basis(KEY, grad, 8).T @ left)
    np.testing.assert_allclose(np.abs(cosines), np.eye(8), atol=1e-4)


def test_a_randomized_basis_gives_the_update_of_the_exact_one():
    left, right = (grassmann.random_basis(jax.random.key(n), (n, 8), jnp.float32) for n in (64, 100))
    grad = left @ jnp.diag(jnp.arange(8.0, 0.0, -1.0)) @ right.T
    updates = []
    for svd in ("exact", "randomized"):
        tx = grass_optax.scale_by_galore(8, 100, svd=svd)
        updates.append(np.asarray(tx.update({"w": grad}, tx.init({"w": grad}))[0]["w"]).ravel())
    one, other = updates
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999
