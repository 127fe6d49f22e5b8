"""Orthonormalisation: the polar factor, whatever the size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax import grassmann
from tests import tolerances

KEY = jax.random.key(0)


def test_polar_factor_is_that_of_the_svd():
    with jax.enable_x64(True):
        x = (
            jax.random.normal(KEY, (2, 30, 10), jnp.float64) * jnp.logspace(0, -6, 10)[None, None]
        )  # condition number 1e6
        u, _, vt = np.linalg.svd(np.asarray(x), full_matrices=False)
        np.testing.assert_allclose(grassmann.orthonormalize(x), u @ vt, atol=1e-8)


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_orthonormalize_has_no_scale(size):
    x = jax.random.normal(KEY, (30, 10))
    expected = grassmann.orthonormalize(x)
    np.testing.assert_allclose(grassmann.orthonormalize(size * x), expected, atol=tolerances.ORTHONORMAL32)


@pytest.mark.parametrize("condition", [1, 4], ids=["one pass", "several passes"])
def test_the_polar_factor_has_derivatives_forwards_and_backwards(condition):
    """Those of central differences; of a stack, whose matrices take different numbers of passes."""
    with jax.enable_x64(True):
        x, direction, weights = jax.random.normal(KEY, (3, 2, 12, 4), jnp.float64)
        x = x.at[1].multiply(jnp.logspace(0, -condition + 1, 4)[None])
        loss = lambda x: jnp.vdot(weights, grassmann.orthonormalize(x))  # noqa: E731
        h = 1e-6
        difference = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
        np.testing.assert_allclose(jax.jvp(loss, (x,), (direction,))[1], difference, rtol=1e-5)
        np.testing.assert_allclose(jnp.vdot(jax.jit(jax.grad(loss))(x), direction), difference, rtol=1e-5)
