"""At most one iteration of a function: where it is due, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax._split.once import at_most_once

STATE = {"a": jnp.arange(3.0), "b": jnp.ones(2)}


def squared(index, state):
    return {"a": jnp.square(state["a"]) + jnp.asarray(index, jnp.float32), "b": 3 * state["b"]}


@pytest.mark.parametrize("due", [True, False])
def test_the_function_is_applied_where_it_is_due_and_only_once(due):
    result = jax.jit(lambda due: at_most_once(due, squared, jnp.int32(5), STATE))(jnp.asarray(due))
    expected = squared(5, STATE) if due else STATE
    jax.tree.map(np.testing.assert_array_equal, result, expected)


@pytest.mark.parametrize("due", [True, False])
def test_a_function_may_close_over_arrays_and_be_differentiated_by_them(due):
    """Forwards and backwards, as through a conditional."""

    def loss(x, scale):
        state = at_most_once(jnp.asarray(due), lambda i, s: scale * s**2, jnp.int32(0), x)
        return jnp.sum(state * jnp.arange(1.0, 4.0))

    x, scale, weights = jnp.array([1.0, 2.0, 3.0]), jnp.float32(0.5), jnp.arange(1.0, 4.0)
    by_x, by_scale = jax.jit(jax.grad(loss, (0, 1)))(x, scale)
    np.testing.assert_allclose(by_x, weights * (2 * scale * x if due else 1.0), rtol=1e-6)
    np.testing.assert_allclose(by_scale, jnp.sum(weights * x**2) if due else 0.0, rtol=1e-6)
    _, forwards = jax.jvp(lambda s: loss(x, s), (scale,), (jnp.ones_like(scale),))
    np.testing.assert_allclose(forwards, by_scale, rtol=1e-6)
