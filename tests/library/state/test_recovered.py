"""What the residual returned, beside the updates of a method with and without its limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grass_optax import recovered_residual
from tests.util import basis_of, grads_like, make

PARAMS = {"tall": jnp.ones((16, 8)), "stack": jnp.ones((3, 8, 16)), "bias": jnp.ones(3)}
ZETA = 1.01


def outside(states, updates, path):
    """The norm of an update outside of its subspace: the recovered residual."""
    s, u = (np.float64(x) for x in (basis_of(states)[path], updates[path].T if path == "tall" else updates[path]))
    return np.linalg.norm(u - s @ (np.swapaxes(s, -1, -2) @ u), axis=(-2, -1))


@pytest.mark.parametrize("name", ["grassjump", "fira"])
def test_it_is_the_part_of_the_update_outside_and_the_limit_is_seen(name):
    """Of the same update with the limit and without it; gradients grow and fall by turns, so that
    both happen.
    """
    tx, free = (make(name, rank=4, max_norm_growth=zeta) for zeta in (ZETA, jnp.inf))
    read = jax.jit(recovered_residual)
    update, unlimited = jax.jit(tx.update), jax.jit(free.update)
    state, seen = tx.init(PARAMS), set()
    for t in range(8):
        size = 3.0 if t in (3, 6) else 1.0
        grads = jax.tree.map(functools.partial(jnp.multiply, size), grads_like(PARAMS, t))
        updates, after = update(grads, state)
        wide, _ = unlimited(grads, state)
        of = read(state, after, grads, max_norm_growth=ZETA)
        assert set(of) == {"tall", "stack"}
        for path in of:
            norm, before = outside(after, updates, path), outside(after, wide, path)
            size = np.linalg.norm(grads[path], axis=(-2, -1))
            np.testing.assert_allclose(of[path].relative, norm / size, rtol=1e-4)
            np.testing.assert_array_equal(of[path].limited, norm < before * (1 - 1e-3))
            seen |= set(np.ravel(of[path].limited).tolist())
        state = after
    assert seen == {True, False}


@pytest.mark.parametrize("size", [2.0**-100, 2.0**100])
def test_the_norm_of_a_gradient_is_found_where_its_squares_leave_float32(size):
    tx, grads = make("grassjump", rank=4), grads_like(PARAMS, 0)
    before = tx.init(PARAMS)
    _, after = tx.update(grads, before)
    scaled = jax.tree.map(lambda g: size * g, grads)
    expected, found = (recovered_residual(before, after, g, max_norm_growth=ZETA) for g in (grads, scaled))
    for path in expected:
        assert np.all(expected[path].relative > 0)
        np.testing.assert_array_equal(found[path].relative * size, expected[path].relative)


def test_a_method_without_a_limit_has_none():
    state = make("galore").init(PARAMS)
    with pytest.raises(ValueError, match="no norm-growth limit"):
        recovered_residual(state, state, PARAMS, max_norm_growth=ZETA)
    with pytest.raises(ValueError, match="two states of one run"):
        recovered_residual(state, make("grassjump").init(PARAMS), PARAMS, max_norm_growth=ZETA)
