"""Residuals that scale columns or the whole, and the limit on how fast a norm may grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from grass_optax import residual
from tests.util import WIDE, grads_like


def limited(norms, growth, shape=(2, 3)):
    """Frobenius norms that the limiter makes of a sequence of norms."""
    tx = residual.norm_growth_limit(growth)
    unit = jnp.ones(shape) / jnp.sqrt(6.0)
    state, out = tx.init(unit), []
    for norm in norms:
        update, state = tx.update(norm * unit, state)
        out.append(float(jnp.linalg.norm(update)))
    return out


@pytest.mark.parametrize(
    ("norms", "growth", "expected"),
    [
        ([1, 5, 5, 5], 1.1, [1, 1.1, 1.21, 1.331]),
        ([1, 0.5, 5], 1.1, [1, 0.5, 0.55]),  # compared with the norm after limiting
        ([0, 0, 3, 9], 1.1, [0, 0, 3, 3.3]),  # zero is not a norm to grow from
        ([1, 2, 4], 0.1, [1, 0.1, 0.01]),
        ([1, 5, 500], float("inf"), [1, 5, 500]),
    ],
)
def test_a_norm_grows_by_no_more_than_its_limit(norms, growth, expected):
    np.testing.assert_allclose(limited(norms, growth), expected, rtol=1e-5)


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
