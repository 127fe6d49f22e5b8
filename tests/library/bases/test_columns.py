"""Coordinate axes: what is taken away of a gradient, and columns of zeros."""

import jax
import jax.numpy as jnp
import numpy as np

import grass_optax
from grass_optax.bases import Columns


def test_the_rows_of_a_basis_are_removed_exactly():
    """Not to rounding: the sign of a rounding would be a whole step."""
    basis = Columns.of(jnp.array([3, 1]), m=5)
    left, right = jax.random.normal(jax.random.key(0), (2, 5, 7))

    @jax.jit
    def outside(left, right):
        grad = left * right  # what is fused with the subtraction would not cancel
        return basis.remove(grad, basis.project(grad), 1.0)

    rows = np.asarray(outside(left, right))
    assert not rows[[1, 3]].any()
    np.testing.assert_array_equal(rows[[0, 2, 4]], (left * right)[jnp.array([0, 2, 4])])


def test_frugal_leaves_the_rows_of_its_basis_to_adam():
    """In a program that makes the gradient as a product, too."""
    left, right = jax.random.normal(jax.random.key(0), (2, 24, 40))
    tx = grass_optax.scale_by_frugal(6)
    state = tx.init(left)

    @jax.jit
    def step(left, right):
        return tx.update(left * right, state)

    updates, after = step(left, right)
    ours, _ = tx.update(left * right, state)
    np.testing.assert_allclose(updates, ours, atol=1e-6)


def test_columns_beyond_the_last_row_are_zero():
    basis = Columns.of(jnp.array([1, 3]), m=3)
    np.testing.assert_array_equal(basis.to_matrix(), [[0, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(basis.project(jnp.ones((3, 2))), [[1, 1], [0, 0]])
