"""The geometry is computed at full precision, however low JAX's default is.

A CPU multiplies float32 as it is under every setting. So beside the numbers, which matter on other
devices, the program is read: each product says at which precision it is to be computed.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from grass_optax import bases, grassmann
from tests import tolerances
from tests.util import METHODS, long_but, make

LOWEST = "bfloat16"
M, N = 7, 19
# A product of factors of 8 bits.
ROUNDED16 = 2**-6


@pytest.mark.parametrize(
    ("name", "options"),
    long_but(
        [("grassjump", {}), ("subtrack", {})],
        [
            *((name, {}) for name in METHODS),
            ("grassjump", {"basis": "gaussian"}),
            ("grassjump", {"basis": "blocks", "blocks": 1}),
            ("grassjump", {"basis": "cosine"}),
            ("galore", {"svd": "randomized"}),
            ("frugal", {"projection": "random"}),
            ("ldadam", {"feedback": False}),
        ],
    ),
)
def test_only_the_two_large_products_follow_the_default_precision(name, options):
    """S^T G and S D, which are the user's to choose; every other product is at the highest."""
    params = {"w": jnp.ones((M, N))}
    tx = make(name, 4, weight_dimension_numbers={"w": MuonDimensionNumbers(0, 1)}, **options)
    with jax.default_matmul_precision(LOWEST):
        program = jax.jit(tx.update).trace(params, jax.eval_shape(tx.init, params)).lower(lowering_platforms=("cuda",))
    products = re.findall(r"stablehlo\.dot_general.*", program.as_text())
    low = [product for product in products if "HIGHEST, HIGHEST" not in product]
    assert len(products) >= len(low)
    for product in low:
        assert f"tensor<{M}x{N}xf32>" in product, product  # a gradient, or what is lifted to one
    if name == "grassjump" and not options:
        assert len(low) == 2
        assert len(products) > 10


def test_geometry_keeps_its_laws_under_the_lowest_default():
    """Orthonormal bases, rotations between them, and the part outside, as with the highest."""
    with jax.default_matmul_precision(LOWEST):
        old, new = (grassmann.random_basis(jax.random.key(i), (3, 48, 12), jnp.float32) for i in range(2))
        for basis in (old, new):
            error = grassmann.project(basis, basis) - jnp.eye(12)[None]
            assert jnp.abs(error).max() <= tolerances.ORTHONORMAL32
        wide = [np.asarray(x, np.float64) for x in (new, old)]
        moved = bases.Dense(new).rotation(bases.Dense(old), like=jnp.ones((3, 48, 64)))
        np.testing.assert_allclose(moved, wide[0].mT @ wide[1], rtol=0, atol=tolerances.SAME32)
        outside = grassmann.to_tangent(new, jax.random.normal(jax.random.key(2), (3, 48, 64)))
        assert jnp.abs(grassmann.project(new, outside)).max() <= tolerances.OUTSIDE32


def test_project_and_lift_are_adjoint_under_the_lowest_default():
    """<S^T G, D> = <G, S D>, up to the roundings of the products, which follow the default."""
    basis = bases.Dense(grassmann.random_basis(jax.random.key(0), (48, 12), jnp.float32))
    grad, direction = (jax.random.normal(jax.random.key(i), s) for i, s in ((1, (48, 64)), (2, (12, 64))))
    with jax.default_matmul_precision(LOWEST):
        projected, lifted = basis.project(grad), basis.lift(direction)
    left, right = jnp.vdot(projected, direction), jnp.vdot(grad, lifted)
    assert abs(left - right) <= ROUNDED16 * jnp.linalg.norm(projected) * jnp.linalg.norm(direction)
