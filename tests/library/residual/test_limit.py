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


@pytest.mark.parametrize("start", [1e-30, 1e-10, 1e-3, 0.3, 1.0, 1e10, 1e30])
def test_no_start_holds_a_norm_down(start):
    """Ten norms of any size, then others around 1: within thirty updates these are let through."""
    rng = np.random.default_rng(0)
    later = rng.uniform(0.8, 1.2, 80)
    out = limited([start] * 10 + list(later), 1.01)
    assert np.all(np.asarray(out[45:]) > 0.75)


def test_a_spike_is_limited_for_as_long_as_adam_remembers_it():
    """A first moment that forgets a spike of 32 at 0.9^t."""
    norms = [1.0] * 5 + [1 + 31 * 0.9**t for t in range(60)]
    assert max(limited(norms, 1.01)) < 1.01**60
    assert max(limited(norms, 1.01)[:40]) < 1.5


def test_a_norm_that_is_not_a_number_shows():
    """And the one after it is a first one."""
    out = limited([1.0, np.nan, 5.0, 9.0], 1.1)
    np.testing.assert_allclose(out, [1, np.nan, 5, 5.5], rtol=1e-6)
