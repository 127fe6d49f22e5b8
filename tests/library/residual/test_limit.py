"""The limit on how fast a norm may grow."""

import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax import residual


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


def test_each_matrix_of_a_stack_has_a_limit_of_its_own():
    tx = residual.norm_growth_limit(2.0)
    stack = jnp.ones((2, 3, 4))
    _, state = tx.update(stack, tx.init(stack))
    grown, state = tx.update(stack * jnp.array([1.5, 8.0])[:, None, None], state)
    np.testing.assert_allclose(grown[:, 0, 0], [1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(state.norm, np.sqrt(12) * np.array([1.5, 2.0]), rtol=1e-6)
