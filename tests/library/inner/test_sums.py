"""Sums of bfloat16 parameters and their updates: on average exact."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from tests.util import assert_same

MANY = 4096


def added(params, updates, key=0, steps=1):
    """The parameters after equal updates."""
    tx = grass_optax.stochastic_rounding(key)

    def step(carry, _):
        params, state = carry
        found, state = tx.update(updates, state, params)
        with jax.numpy_dtype_promotion("standard"):  # as users of Optax have it
            return (optax.apply_updates(params, found), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[0][0])(params)


def test_a_thousand_small_updates_are_kept_on_average():
    """1000 updates of 1e-4 of a weight of 1: nearest rounding loses all of them."""
    weights = {"w": jnp.ones(MANY, jnp.bfloat16)}
    updates = {"w": jnp.full(MANY, 1e-4, jnp.float32)}
    nearest = weights["w"]
    for _ in range(3):
        nearest = (nearest.astype(jnp.float32) + updates["w"]).astype(jnp.bfloat16)
    assert (nearest == 1).all()
    mean = added(weights, updates, steps=1000)["w"].astype(jnp.float32).mean()
    # A step adds the spacing, 1/128, with probability p = 0.0128: the deviation of a weight is
    # sqrt(1000 p) / 128 = 0.028, of the mean 0.028 / 64; five of these.
    assert abs(float(mean) - 1.1) < 5 * 0.028 / 64


def test_the_mean_over_keys_is_the_sum():
    params = jnp.asarray([1.0, -1.0, 3.0, 1e-6, -0.7, 200.0], jnp.bfloat16)
    updates = jnp.asarray([1e-3, 2e-3, -1e-3, 1e-9, 0.3, -0.3], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    sums = np.asarray(jax.lax.map(lambda key: added(params, updates, key), keys), np.float64)
    exact = np.asarray(params.astype(jnp.float32) + updates, np.float64)
    deviation = sums.std(axis=0)
    assert (deviation > 0).all()
    assert (np.abs(sums.mean(axis=0) - exact) < 5 * deviation / 20).all()
    assert all(len(set(column)) == 2 for column in sums.T)


def test_what_bfloat16_represents_is_exact():
    params = jnp.asarray([1.0, 2.0, 0.0, -0.5, 1e30, 1e-38], jnp.bfloat16)
    updates = jnp.asarray([0.0, 0.5, 2.0**-120, 0.5, 0.0, 0.0], jnp.float32)
    expected = (params.astype(jnp.float32) + updates).astype(jnp.bfloat16)
    for key in range(2):
        np.testing.assert_array_equal(added(params, updates, key), expected)


def test_infinities_and_nan_stay():
    params = jnp.asarray([jnp.inf, 1.0, jnp.nan, 1.0, -jnp.inf], jnp.bfloat16)
    updates = jnp.asarray([1.0, -jnp.inf, 0.0, jnp.nan, 0.0], jnp.float32)
    np.testing.assert_array_equal(
        added(params, updates).astype(jnp.float32), [np.inf, -np.inf, np.nan, np.nan, -np.inf]
    )


def test_draws_are_of_the_key_the_step_and_the_path():
    x, u = jnp.ones(MANY, jnp.bfloat16), jnp.full(MANY, 3e-3, jnp.bfloat16)
    one = added({"a": x, "b": x}, {"a": u, "b": u})
    again = added({"b": x, "c": {"a": x}}, {"b": u, "c": {"a": u}})
    np.testing.assert_array_equal(one["b"], again["b"])  # whatever else is in the tree
    others = [one["a"], added({"b": x}, {"b": u}, key=1)["b"], again["c"]["a"]]
    for other in others:
        assert 0.3 < float(jnp.mean(other == one["b"])) < 0.9
    tx = grass_optax.stochastic_rounding(0)
    first, state = tx.update(u, tx.init(x), x)
    second, _ = tx.update(u, state, x)
    assert (first != second).any()


def test_wider_parameters_get_their_updates_as_they_are():
    params, updates = {"w": jnp.ones(3)}, {"w": jnp.full(3, 1e-9)}
    tx = grass_optax.stochastic_rounding()
    found, _ = tx.update(updates, tx.init(params), params)
    assert found["w"] is updates["w"]


def test_it_composes_with_a_method_whose_state_stays_float32():
    params = {"w": jax.random.normal(jax.random.key(0), (16, 24), jnp.bfloat16)}
    plain = grass_optax.grassjump(1e-2, rank=4)
    tx = optax.chain(plain, grass_optax.stochastic_rounding(3))
    grads = {"w": jax.random.normal(jax.random.key(1), (16, 24), jnp.bfloat16)}
    found, state = jax.jit(tx.update)(grads, tx.init(params), params)
    expected, _ = jax.jit(plain.update)(grads, plain.init(params), params)
    moved = params["w"].astype(jnp.float32) + expected["w"].astype(jnp.float32)
    rounded = params["w"].astype(jnp.float32) + found["w"]
    assert_same(rounded, moved, 2**-7)
    assert state[1].count == 1


def test_parameters_are_needed():
    tx = grass_optax.stochastic_rounding()
    with pytest.raises(ValueError, match="pass params to update"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
