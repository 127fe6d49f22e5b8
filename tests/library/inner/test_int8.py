"""Weights in INT8: exact where nothing changes, exact on average where something does."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grass_optax
from grass_optax import Int8, from_int8, in_int8, to_int8
from grass_optax._inner.int8 import BLOCK
from tests.util import assert_same

# Blocks of one entry, that are whole, and that are cut short. A few, as each is compiled.
SHAPES = st.sampled_from([(1, 1), (5, 3), (2, 256, 2), (1, 513, 3)])
few = settings(deadline=None, max_examples=20)


def weights(shape, seed=0, dtype=jnp.float32):
    """Columns of sizes that differ by orders of magnitude."""
    x, size = jax.random.split(jax.random.key(seed))
    sizes = 10.0 ** jax.random.uniform(size, shape[-1:], minval=-4, maxval=2)
    return (jax.random.normal(x, shape) * sizes.reshape((1,) * (len(shape) - 1) + (-1,))).astype(dtype)


def scales(x):
    """In float64: the smallest power of two for each block that keeps codes within 127."""
    blocks = [np.abs(x[..., i : i + BLOCK, :]).max(-2, keepdims=True) for i in range(0, x.shape[-2], BLOCK)]
    exponent = np.ceil(np.log2(np.maximum(np.concatenate(blocks, -2), 1e-30) / 127))
    return np.repeat(2.0**exponent, BLOCK, axis=-2)[..., : x.shape[-2], :]


@functools.partial(jax.jit, static_argnames="steps")
def moved(params, updates, key=0, steps=1):
    """The weights after equal updates."""
    tx = in_int8(optax.identity(), key)

    def step(carry, _):
        params, state = carry
        changes, state = tx.update(updates, state, params)
        with jax.numpy_dtype_promotion("standard"):  # scales of bfloat16 have changes of float32
            return (optax.apply_updates(params, changes), state), None

    return from_int8(jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0], jnp.float32)


@few
@given(SHAPES, st.integers(0, 9))
def test_what_is_stored_is_the_nearest_multiple_of_the_scale(shape, seed):
    x = weights(shape, seed)
    stored = to_int8(x, True)
    scale = scales(np.asarray(x, np.float64))
    np.testing.assert_allclose(from_int8(stored), np.round(np.asarray(x, np.float64) / scale) * scale, rtol=1e-7)
    assert stored.codes.nbytes + stored.scale.nbytes <= x.size * (1 + 4 / BLOCK) + 4 * x.size / shape[-2]


@few
@given(SHAPES, st.integers(0, 9), st.sampled_from([jnp.float32, jnp.bfloat16]))
def test_what_is_stored_does_not_change_when_it_is_stored_again(shape, seed, dtype):
    stored = to_int8(weights(shape, seed, dtype), True)
    again = to_int8(from_int8(stored), True)
    assert stored.scale.dtype == dtype
    assert_same(from_int8(again, jnp.float32), from_int8(stored, jnp.float32))
    assert_same(moved(stored, jnp.zeros(shape)), from_int8(stored, jnp.float32))


@few
@given(SHAPES, st.integers(0, 5))
def test_a_sum_arrives_at_one_of_its_two_neighbours(shape, seed):
    """Whatever the updates: those that are lost when rounded to the nearest, and larger ones."""
    stored = to_int8(weights(shape), True)
    updates = weights(shape, seed + 1) * 10.0 ** (seed - 3)
    exact = np.asarray(from_int8(stored), np.float64) + np.asarray(updates, np.float64)
    scale = scales(exact)
    error = np.abs(np.asarray(moved(stored, updates, seed), np.float64) - exact) / scale
    assert error.max() < 1 + 1e-5


def test_the_mean_over_keys_is_the_sum():
    shape = (2, 300, 2)
    stored, updates = to_int8(weights(shape), True), 0.01 * weights(shape, 1)
    sums = jax.lax.map(lambda key: moved(stored, updates, key), jax.random.split(jax.random.key(0), 400))
    sums = np.asarray(sums, np.float64)
    exact = np.asarray(from_int8(stored), np.float64) + np.asarray(updates, np.float64)
    # The deviation of the mean is at most half a scale over sqrt(400); five of these, of the mean
    # of all errors 1 / sqrt(1200) of it.
    error = (sums.mean(axis=0) - exact) / scales(exact)
    assert np.abs(error).max() < 5 * 0.5 / 20
    assert abs(error.mean()) < 5 * 0.5 / 20 / np.sqrt(error.size)


def test_a_thousand_small_updates_are_kept_on_average():
    """Each is 0.0128 of a scale: nearest rounding loses all of them."""
    stored = to_int8(jnp.ones((512, 8)), True)
    update = 2e-4
    np.testing.assert_array_equal(from_int8(to_int8(from_int8(stored) + update, True)), 1)
    mean = moved(stored, jnp.full((512, 8), update), steps=1000).mean()
    # The deviation of a weight is at most sqrt(1000 p) / 64, p = 0.0128; of the mean 1/64 of it.
    assert abs(float(mean) - 1.2) < 5 * np.sqrt(12.8) / 64 / 64


def test_an_entry_that_is_not_updated_stays_while_its_block_changes():
    stored = to_int8(weights((256, 1)), True)
    updates = jnp.zeros((256, 1)).at[7].set(1e-3 * jnp.abs(from_int8(stored)).max())
    np.testing.assert_array_equal(jnp.delete(moved(stored, updates), 7), jnp.delete(from_int8(stored), 7))


def test_a_weight_that_is_not_finite_is_so_when_it_is_read():
    stored = to_int8(jnp.ones((4, 2)), True)
    found = moved(stored, jnp.zeros((4, 2)).at[1, 0].set(jnp.nan))
    assert not jnp.isfinite(found[1, 0])
    assert (found[:, 1] == 1).all()


def test_a_block_that_becomes_zero_lives_on():
    """Its scale is then 0: the smallest is lost in a sum with the one before."""
    tx, params = in_int8(optax.identity()), to_int8(jnp.full((4, 1), 2.0**40), True)
    state = tx.init(params)
    for update, expected in ((-(2.0**40), 0), (1, 1), (-0.5, 0.5)):
        changes, state = tx.update(jnp.full((4, 1), update), state, params)
        params = optax.apply_updates(params, changes)
        np.testing.assert_array_equal(from_int8(params), expected)
    assert state.count == 3


def test_a_stack_is_its_matrices():
    x, updates = weights((3, 20, 4)), weights((3, 20, 4), 1)
    whole = moved({"w": to_int8(x, True)}, {"w": updates})["w"]
    parts = moved({"w": [to_int8(m, True) for m in x]}, {"w": list(updates)})["w"]
    assert_same(whole, jnp.stack(parts))


def test_others_are_as_without_it():
    params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
    stored = to_int8(params, lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    assert isinstance(stored["w"], Int8)
    assert stored["b"] is params["b"]
    tx, grads = optax.adam(0.1), jax.tree.map(lambda x: x + 1, params)
    changes, state = in_int8(tx).update(grads, in_int8(tx).init(stored), stored)
    updates, expected = tx.update(grads, tx.init(params), params)
    assert_same(changes["b"], updates["b"])
    assert_same(state.inner, expected)


def test_memory_and_shardings_are_those_of_the_weights():
    params = {"kernel": jax.ShapeDtypeStruct((64, 128), jnp.float32)}
    stored = jax.eval_shape(lambda p: to_int8(p, True), params)
    tx = grass_optax.grassjump(0.1, rank=8)
    plain, found = grass_optax.memory_report(tx, params), grass_optax.memory_report(in_int8(tx), stored)
    assert found.leaves == plain.leaves
    assert found.adam_bytes == plain.adam_bytes
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = {"kernel": jax.sharding.NamedSharding(mesh, jax.P("fsdp", None))}
    of_stored = {"kernel": Int8(sharding["kernel"], sharding["kernel"])}
    found = grass_optax.state_shardings(in_int8(tx), stored, of_stored)
    expected = grass_optax.state_shardings(tx, params, sharding)
    assert jax.tree.leaves(found.inner) == jax.tree.leaves(expected)


def test_what_has_no_columns_is_refused():
    with pytest.raises(ValueError, match=r"leaf 'b' has the shape \(3,\), which has no columns. Choose"):
        to_int8({"b": jnp.zeros(3)}, True)
    with pytest.raises(TypeError, match="is not floating point"):
        to_int8({"b": jnp.zeros((3, 2), jnp.int32)}, True)
    stored = to_int8(jnp.ones((2, 2)), True)
    with pytest.raises(ValueError, match="pass params to update"):
        in_int8(optax.sgd(0.1)).update(jnp.ones((2, 2)), in_int8(optax.sgd(0.1)).init(stored))


def test_sums_are_taken_on_blocks_in_the_order_of_the_codes():
    """In memory: a compiler that prefers another one would turn float32 arrays of their size."""
    params = to_int8({"w": jnp.ones((2, 512, 128))}, mask=True)
    tx = in_int8(optax.sgd(0.1))
    program = jax.jit(tx.update).lower({"w": jnp.ones((2, 512, 128))}, tx.init(params), params).as_text()
    held = re.findall(r"@LayoutConstraint.*tensor<2x2x256x128x(\w+)>$", program, re.MULTILINE)
    assert sorted(held) == ["f32", "i8"]  # updates and codes
