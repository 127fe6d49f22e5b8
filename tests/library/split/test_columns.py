"""The norms of a residual that is never formed, against the residual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax import grassmann, layouts
from grass_optax._split.columns import column_factors, gradient_norms, residual_norms

M, N, RANK = 6, 16, 3


def case(shape=(M, N), orthonormal=True, dtype=jnp.float32):
    leaf = jax.random.normal(jax.random.key(0), shape, dtype)
    layout = layouts.matrix_layouts(leaf)
    basis = grassmann.random_basis(jax.random.key(1), (M, RANK), dtype)
    basis = basis if orthonormal else basis @ jnp.diag(jnp.arange(1, RANK + 1, dtype=dtype))
    return leaf, layout, basis, basis.T @ layout.to_matrix(leaf)


@pytest.mark.parametrize("shape", [(M, N), (N, M)])
def test_norms_of_a_gradient_are_those_of_its_columns(shape):
    leaf, layout, _, _ = case(shape)
    np.testing.assert_allclose(
        gradient_norms(layout, leaf)[0], np.linalg.norm(layout.to_matrix(leaf), axis=0), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(M, N), (N, M)])
@pytest.mark.parametrize("orthonormal", [True, False])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_norms_of_a_residual_are_those_of_its_columns(shape, orthonormal, fraction):
    with jax.enable_x64(True):
        leaf, layout, basis, projected = case(shape, orthonormal, jnp.float64)
        norms = residual_norms(layout, leaf, basis, projected, removed_fraction=fraction, orthonormal=orthonormal)
        formed = layout.to_matrix(leaf) - fraction * basis @ projected
        np.testing.assert_allclose(norms[0], np.linalg.norm(formed, axis=0), rtol=1e-11)


def norms_of(leaf, basis):
    layout = layouts.matrix_layouts(leaf)
    return residual_norms(layout, leaf, basis, basis.T @ leaf, removed_fraction=1.0, orthonormal=True)


def test_a_difference_that_cancels_counts_as_nothing():
    """The columns of this gradient lie in the subspace but for 1e-5 of them."""
    _, _, basis, _ = case()
    inside = basis @ jnp.ones((RANK, N))
    outside = jnp.ones((M, N)) - basis @ (basis.T @ jnp.ones((M, N)))
    assert np.all(np.asarray(norms_of(inside + 1e-5 * outside, basis)) == 0)
    assert np.all(np.asarray(norms_of(inside + 1e-1 * outside, basis)) > 0)


def test_squares_that_overflow_count_as_nothing():
    leaf, _, basis, _ = case()
    norms = np.asarray(norms_of(leaf.at[:, 3].multiply(1e25), basis))[0]
    assert norms[3] == 0
    assert np.all(np.delete(norms, 3) > 0)


def test_the_factor_of_an_empty_column_is_zero():
    np.testing.assert_array_equal(
        column_factors(jnp.array([[3.0, 0.0, 5.0]]), jnp.array([[1.5, 0.0, 0.0]])), [[2, 0, 0]]
    )
