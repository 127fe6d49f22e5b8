"""Rules that do not read the gradient: functions of the key and of the old basis alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import grassmann, subspaces
from tests import tolerances
from tests.util import matrix_of, old_basis

M, RANK, N = 16, 4, 24
OLD = old_basis(subspaces.frozen(), (M, RANK))
RULES = {
    "jump": subspaces.random_jump(), "unit columns": subspaces.random_jump("gaussian"),
    "walk": subspaces.random_walk(), "walk by 0.3": subspaces.random_walk(0.3, walk_rank=2),
    "projection": subspaces.random_projection(), "columns": subspaces.columns(),
    "blocks": subspaces.random_jump("blocks", 2), "cosine": subspaces.random_jump("cosine"),
    "frozen": subspaces.frozen(),
}  # fmt: skip


def basis(rule, key=0, grad=0.0):
    refresh = subspaces.Refresh(
        key=jax.random.key(key), count=jnp.int32(4), grad=jnp.full((M, N), grad), basis=old_basis(rule, OLD.shape),
        inner_state=None, rule_state=optax.EmptyState(),
    )  # fmt: skip
    return np.asarray(matrix_of(rule.update(refresh)[0]))


@pytest.mark.parametrize("name", RULES)
def test_the_gradient_is_not_read(name):
    np.testing.assert_array_equal(basis(RULES[name]), basis(RULES[name], grad=jnp.nan))


@pytest.mark.parametrize("name", [name for name in RULES if name != "frozen"])
def test_another_key_draws_another_basis(name):
    assert not np.array_equal(basis(RULES[name], 0), basis(RULES[name], 1))


def test_a_frozen_basis_is_the_old_one_or_the_one_given():
    np.testing.assert_array_equal(basis(RULES["frozen"]), OLD)
    np.testing.assert_array_equal(basis(subspaces.frozen(2 * OLD, orthonormal=False)), 2 * OLD)


def test_a_walk_turns_as_many_directions_as_it_says_by_the_angle_it_says():
    cosines = grassmann.principal_cosines(jnp.asarray(basis(RULES["walk by 0.3"])), OLD)
    np.testing.assert_allclose(cosines, [1, 1, np.cos(0.3), np.cos(0.3)], atol=1e-5)


def test_columns_are_different_coordinate_axes():
    chosen = basis(RULES["columns"])
    assert set(np.unique(chosen)) == {0, 1}
    np.testing.assert_array_equal(chosen.T @ chosen, np.eye(RANK))


def test_a_projection_keeps_the_mean_of_squares():
    rule, x = RULES["projection"], np.ones(M)
    squares = [np.sum((basis(rule, key).T @ x) ** 2) for key in range(200)]
    assert abs(np.mean(squares) / M - 1) < 0.2  # one deviation of the mean is sqrt(2 / r / 200) = 0.05


def test_columns_of_a_jump_without_orthonormalisation_have_unit_length():
    np.testing.assert_allclose(np.linalg.norm(basis(RULES["unit columns"]), axis=0), 1, rtol=1e-6)
    assert np.abs(basis(RULES["unit columns"]).T @ basis(RULES["unit columns"]) - np.eye(RANK)).max() > 0.01
    assert grassmann.orthonormality_error(jnp.asarray(basis(RULES["jump"]))) < tolerances.ORTHONORMAL32
