"""A dense basis is a linear map: its products, alone and over stacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax import grassmann
from grass_optax.bases import dense
from tests import tolerances

KEYS = jax.random.split(jax.random.key(0), 4)
BASIS = grassmann.random_basis(KEYS[0], (3, 12, 4), jnp.float32)
GRAD, DIRECTION = (jax.random.normal(k, s) for k, s in zip(KEYS[1:3], [(3, 12, 20), (3, 4, 20)], strict=True))


def test_project_and_lift_are_adjoint():
    inside = jnp.vdot(dense.project(BASIS, GRAD), DIRECTION)
    np.testing.assert_allclose(inside, jnp.vdot(GRAD, dense.lift(BASIS, DIRECTION)), rtol=1e-5)


def test_what_is_lifted_is_projected_back():
    np.testing.assert_allclose(
        dense.project(BASIS, dense.lift(BASIS, DIRECTION)), DIRECTION, atol=tolerances.ORTHONORMAL32 * 10
    )


@pytest.mark.parametrize("product", [dense.project, dense.lift])
def test_a_stack_multiplied_matrix_by_matrix_gives_the_same(product):
    factor = GRAD if product is dense.project else DIRECTION
    np.testing.assert_allclose(product(BASIS, factor, True), product(BASIS, factor), atol=1e-5)
    np.testing.assert_allclose(product(BASIS[0], factor[0], True), product(BASIS, factor)[0], atol=1e-5)


def test_narrow_factors_accumulate_in_float32():
    basis, grad, direction = (x.astype(jnp.bfloat16) for x in (BASIS, GRAD, DIRECTION))
    assert dense.project(basis, grad).dtype == jnp.float32
    assert dense.lift(basis, direction).dtype == jnp.float32
    assert dense.rotation(basis, basis, grad).dtype == jnp.float32


def test_rotation_takes_coordinates_to_the_new_basis():
    new = grassmann.random_basis(KEYS[3], BASIS.shape, jnp.float32)
    rotated = dense.rotation(new, BASIS, GRAD) @ DIRECTION
    np.testing.assert_allclose(rotated, dense.project(new, dense.lift(BASIS, DIRECTION)), atol=1e-5)
