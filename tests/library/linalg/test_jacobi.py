"""Eigenvectors and singular vectors by Jacobi rotations, beside LAPACK's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax import grassmann
from grass_optax._linalg.jacobi import eigenvectors, singular_vectors
from tests import tolerances
from tests.util import long_but

SIZES = (1, 2, 3, 8, 17)


def with_eigenvalues(values, batch=(), dtype=jnp.float32):
    size = len(values)
    basis = grassmann.random_basis(jax.random.key(size), (*batch, size, size), dtype)
    return basis @ jnp.diag(jnp.asarray(values, dtype)) @ jnp.swapaxes(basis, -1, -2)


def overlaps(one, other):
    """|cosines| of the columns with the same number."""
    return np.abs(np.sum(np.asarray(one, np.float64) * np.asarray(other, np.float64), axis=-2))


@pytest.mark.parametrize(
    ("batch", "size"),
    long_but([*(((), size) for size in SIZES), ((3,), 3)], itertools.product(((), (3,)), SIZES)),
    ids=str,
)
def test_eigenvectors_are_those_of_lapack_the_largest_first(batch, size):
    with jax.enable_x64(True):
        gram = with_eigenvalues(0.5 ** np.arange(size), batch, jnp.float64)
        vectors = jax.jit(eigenvectors)(gram)
        expected = np.linalg.eigh(np.asarray(gram))[1][..., ::-1]
        np.testing.assert_allclose(overlaps(vectors, expected), 1, rtol=0, atol=1e-12)


def test_vectors_of_equal_eigenvalues_span_their_space():
    gram = with_eigenvalues([4.0, 4.0, 4.0, 1.0, 1.0, 0.0, 0.0])
    vectors = jax.jit(eigenvectors)(gram)
    assert grassmann.orthonormality_error(vectors) < tolerances.ORTHONORMAL32
    turned = np.asarray(vectors.T @ gram @ vectors)
    np.testing.assert_allclose(turned, np.diag([4.0, 4.0, 4.0, 1.0, 1.0, 0.0, 0.0]), atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        [0.7],
        [0.0],
        [0.0, 0.0],
        [1.0, 0.9, 0.5, 1e-4, 1e-6],
        [1.0, 1.0, 0.0, 0.0],
        [1e-3, 2e-4, 0.0],
        [*[1.0] * 16, *[0.0] * 17],
        np.geomspace(1, 1e-7, 33).tolist(),
    ],
    ids=lambda values: f"{len(values)} from {values[0]} to {values[-1]}",
)
def test_singular_values_are_right_to_rounding_and_their_vectors_orthogonal(values):
    """Those of X^T X are right to the root of rounding: 3e-4 in float32."""
    rng, size = np.random.default_rng(0), len(values)
    left, right = (np.linalg.qr(rng.standard_normal((2, size, size)))[0] for _ in range(2))
    x = left @ np.diag(values) @ right  # two matrices
    u, sigma, v = (np.float64(y) for y in jax.jit(singular_vectors)(jnp.float32(x)))
    rounding = max(size, 3) * 2e-7
    np.testing.assert_allclose(sigma, [values] * 2, atol=rounding)
    for vectors in (u, v):
        np.testing.assert_allclose(np.swapaxes(vectors, -1, -2) @ vectors, [np.eye(size)] * 2, atol=rounding)
    np.testing.assert_allclose(u * sigma[:, None, :] @ np.swapaxes(v, -1, -2), x, atol=rounding)


def test_singular_values_of_what_is_not_finite_are_none():
    _, sigma, _ = jax.jit(singular_vectors)(jnp.array([[1.0, 0.0], [jnp.nan, 1.0]]))
    assert np.all(np.isnan(sigma))


@pytest.mark.parametrize("fill", [0.0, jnp.nan, jnp.inf])
def test_what_has_no_eigenvectors_gets_the_identity(fill):
    gram = jnp.stack([with_eigenvalues([3.0, 2.0, 1.0]), jnp.full((3, 3), fill)])
    vectors = jax.jit(eigenvectors)(gram)
    np.testing.assert_array_equal(vectors[1], np.eye(3))
    np.testing.assert_allclose(overlaps(vectors[0], np.linalg.eigh(np.asarray(gram[0]))[1][:, ::-1]), 1, atol=1e-5)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_size_of_the_matrix_does_not_matter(size):
    gram = with_eigenvalues([3.0, 2.0, 1.0, 0.5])
    expected = jax.jit(eigenvectors)(gram)
    np.testing.assert_allclose(overlaps(jax.jit(eigenvectors)(size * gram), expected), 1, atol=1e-5)
