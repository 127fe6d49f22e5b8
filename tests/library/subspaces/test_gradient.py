"""Rules that make a basis from the gradient alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import grassmann, subspaces
from tests import tolerances
from tests.util import matrix_of, old_basis


@pytest.mark.parametrize("rule", [subspaces.dct(), subspaces.range_finder(), subspaces.svd()])
def test_a_first_gradient_that_is_not_finite_gives_a_random_basis(rule):
    def basis(key):
        refresh = subspaces.Refresh(
            key=jax.random.key(key), count=jnp.int32(0), grad=jnp.full((16, 24), jnp.nan),
            basis=rule.form((16, 4), jnp.float32),
            inner_state=None, rule_state=optax.EmptyState(), first=True,
        )  # fmt: skip
        return np.asarray(matrix_of(rule.update(refresh)[0]))

    np.testing.assert_allclose(basis(0).T @ basis(0), np.eye(4), atol=1e-5)
    assert np.abs(basis(0) - basis(1)).max() > 0.1


def made_by(rule, grad, rank):
    refresh = subspaces.Refresh(
        key=jax.random.key(0), count=jnp.int32(3), grad=grad, basis=old_basis(rule, (grad.shape[0], rank)),
        inner_state=None, rule_state=optax.EmptyState(),
    )  # fmt: skip
    return matrix_of(rule.update(refresh)[0])


def test_the_exact_basis_is_the_leading_singular_vectors_in_order():
    grad = jax.random.normal(jax.random.key(2), (8, 20))
    expected = np.linalg.svd(np.asarray(grad, np.float64))[0][:, :3]
    cosines = expected.T @ np.asarray(made_by(subspaces.svd(), grad, 3))
    np.testing.assert_allclose(np.abs(cosines), np.eye(3), atol=1e-5)


def test_the_cosine_transform_keeps_the_vectors_with_most_energy():
    """Of a gradient that is made of the waves 1, 4 and 6 these are found, the strongest first."""
    m = 8
    waves = np.cos(np.pi * (2 * np.arange(m)[:, None] + 1) * np.array([[1, 4, 6]]) / (2 * m)) * (2 / m) ** 0.5
    strengths = np.diag([2.0, 5.0, 3.0]) @ np.ones((3, 12))
    basis = made_by(subspaces.dct(), jnp.asarray(waves @ strengths, jnp.float32), 3)
    np.testing.assert_allclose(basis, waves[:, [1, 2, 0]], atol=1e-6)


@pytest.mark.parametrize("rule", [subspaces.dct(), subspaces.range_finder(), subspaces.svd()])
def test_the_old_basis_is_kept_when_the_gradient_is_not_finite(rule):
    grad = jnp.ones((8, 12)).at[2, 3].set(jnp.inf)
    np.testing.assert_array_equal(made_by(rule, grad, 3), matrix_of(old_basis(rule, (8, 3))))


def test_the_range_finder_makes_an_orthonormal_basis_of_the_range():
    left, right = (grassmann.random_basis(jax.random.key(n), (n, 3), jnp.float32) for n in (16, 40))
    basis = made_by(subspaces.range_finder(), left @ right.T, 3)
    assert grassmann.orthonormality_error(basis) < tolerances.ORTHONORMAL32
    np.testing.assert_allclose(grassmann.principal_cosines(basis, left), 1, atol=1e-5)
