"""COAP: its first basis."""

import jax.numpy as jnp

import grass_optax
from grass_optax import grassmann
from tests import tolerances
from tests.util import WIDE, basis_of


def test_coap_starts_at_random_when_the_first_gradient_is_not_finite():
    grad = jnp.full(WIDE, jnp.nan)
    tx = grass_optax.scale_by_coap(rank=2)
    basis = basis_of(tx.update(grad, tx.init(grad))[1])
    assert grassmann.orthonormality_error(basis) < tolerances.ORTHONORMAL32
    assert jnp.max(jnp.abs(basis)) < 0.999
