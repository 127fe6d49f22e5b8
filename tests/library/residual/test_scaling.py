"""Residuals that scale columns or the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from grass_optax import residual
from tests.util import WIDE, grads_like


def test_recovery_factor_of_a_column_without_gradient_is_zero():
    """Momentum may move it (N != 0), but a factor of N / 0 must not."""
    projected = jnp.ones((4, 5)).at[:, 2].set(0).at[:, 3].set(1e-9)
    factors = residual.recovery_factors(projected, jnp.full((4, 5), 3.0))
    np.testing.assert_allclose(factors[0], [3, 3, 0, 0, 3])
    np.testing.assert_allclose(
        residual.recovery_factors(1e-12 * projected, jnp.full((4, 5), 3e-12))[0], [3, 3, 0, 0, 3], rtol=1e-6
    )


@pytest.mark.parametrize("method", ["apollo", "apollo_mini", "grassjump"])
def test_squares_that_overflow_make_no_nan(method):
    """A gradient of 1e20 is finite, its squares are not: what is scaled by a norm is left out, and
    nothing spoilt.
    """
    options = {} if method == "apollo_mini" else {"rank": 2}
    tx = getattr(grass_optax, f"scale_by_{method}")(update_proj_gap=2, **options)
    state, update = tx.init(jnp.ones(WIDE)), jax.jit(tx.update)
    for t in range(5):
        updates, state = update(grads_like(jnp.ones(WIDE), t) * (1e20 if t == 1 else 1.0), state)
        assert jnp.all(jnp.isfinite(updates))
    if method == "apollo":  # the others share the second moments that are infinite now, as any Adam's would be
        assert jnp.linalg.norm(updates) > 0
