"""Moments in bfloat16 and in 8 bits: what rounding does, what is stored, and what the methods make
of it.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grass_optax
from grass_optax._inner.narrow import decoded, encoded
from grass_optax._inner.transforms import adam, narrow_moments
from grass_optax._linalg.rounding import stochastically_rounded
from tests.util import is_finite

BF16, FP8 = "bfloat16", "float8_e4m3fn"
both = pytest.mark.parametrize("dtype", [BF16, FP8])
SPACING = {BF16: 2**-7, FP8: 2**-3}  # largest relative distance of two neighbours


def state_of(moment, dtype, second=None):
    """Adam's state in a narrow type after `moment` was written into it, and the same decoded."""
    tx = adam(0.9, 0.999, 1e-8, dtype, dtype)
    like = tx.init(jnp.zeros_like(moment))
    second = jnp.square(moment) if second is None else second
    state = encoded(optax.ScaleByAdamState(jnp.ones((), jnp.int32), moment, second), like)
    return state, decoded(state)


@settings(deadline=None, max_examples=60)
@given(st.floats(-400, 400, width=32), st.floats(0, 1, exclude_max=True, width=32), st.sampled_from([BF16, FP8]))
def test_rounded_to_a_neighbour(x, uniform, dtype):
    """The result is in the type, one of its two numbers around x, and x itself if that is one."""
    x = jnp.float32(x if abs(x) > 1e-30 else 0.0)
    y = stochastically_rounded(x, dtype, jnp.float32(uniform))
    assert y == y.astype(dtype).astype(jnp.float32)
    spacing = max(2.0 ** math.floor(math.log2(abs(x))), 2**-6 if dtype == FP8 else 0) * SPACING[dtype] if x else 0
    assert abs(y - x) <= spacing
    assert stochastically_rounded(y, dtype, jnp.float32(uniform)) == y
    nearest = x.astype(dtype).astype(jnp.float32)
    assert nearest in (stochastically_rounded(x, dtype, jnp.float32(u)) for u in (0, 1 - 2**-24))


@both
def test_the_mean_is_the_number(dtype):
    """Over a grid of uniforms exactly; subnormals, numbers beside a power of two and the largest
    included.
    """
    largest = float(jnp.finfo(dtype).max)
    x = jnp.asarray([1e-3, -1e-3, 0.013, 1 - 1e-3, -1.03, 3.14159, 255.9, -largest * 0.999], jnp.float32)
    uniform = (jnp.arange(4096, dtype=jnp.float32)[:, None] + 0.5) / 4096
    y = np.asarray(stochastically_rounded(jnp.tile(x, (4096, 1)), dtype, jnp.tile(uniform, (1, len(x)))))
    x, y = np.asarray(x, np.float64), y.astype(np.float64)
    spacing = np.maximum(np.abs(x), 2**-6) * SPACING[dtype]
    assert np.all(np.abs(y.mean(0) - x) <= spacing / 4096)
    assert all(len(np.unique(column)) == 2 for column in y.T)


@both
def test_both_moments_are_unbiased_over_counts(dtype):
    """The draws of an update: the mean over 400 counts is the number, to five standard errors."""
    x = jax.random.normal(jax.random.key(0), (8, 16)) * jnp.exp(jnp.arange(16.0))[None]
    like = adam(0.9, 0.999, 1e-8, dtype, dtype).init(x)

    def rounded(count):
        return decoded(encoded(optax.ScaleByAdamState(count, x, jnp.square(x)), like))

    drawn = jax.tree.map(np.asarray, jax.jit(jax.vmap(rounded))(jnp.arange(400)))
    for found, wanted in ((drawn.mu, np.asarray(x)), (drawn.nu, np.square(x))):
        error = np.abs(found.mean(0, np.float64) - wanted)
        bottom = np.abs(wanted).max(0, keepdims=True) * 2**-13  # numbers are evenly spaced below
        assert np.all(error < 5 * SPACING[dtype] * np.maximum(np.abs(wanted), bottom) / 2 / 400**0.5)


def test_draws_are_functions_of_key_count_leaf_and_moment():
    """And not of each other: fractions of entries rounded the same way are about a half."""
    x = 1 + SPACING[BF16] * (jnp.arange(4096.0) % 7 + 0.5)
    grads = {"a": x, "b": x}

    def ups(key, count, moved=False):
        state = adam(0.9, 0.999, 1e-8, BF16, BF16, key).init(grads)
        own = decoded(encoded(optax.ScaleByAdamState(jnp.int32(count), grads, grads), state, moved))
        return [np.asarray(own.mu["a"] > x), np.asarray(own.mu["b"] > x), np.asarray(own.nu["a"] > x)]

    drawn = ups(0, 1) + ups(0, 2) + ups(1, 1) + ups(0, 1, moved=True)
    for i, one in enumerate(drawn):
        assert abs(one.mean() - 0.5) < 0.04
        assert abs(np.mean(one[1:] == one[:-1]) - 0.5) < 0.04  # neighbouring entries
        assert all(abs(np.mean(one == other) - 0.5) < 0.04 for other in drawn[:i])
    chex.assert_trees_all_equal(drawn[:3], ups(0, 1))


@both
def test_what_can_be_stored_is_stored_exactly(dtype):
    """A scale is a power of two: half the largest entry gone, the others stay to the bit."""
    _, own = state_of(jax.random.normal(jax.random.key(0), (6, 16)), dtype)
    again = state_of(own.mu, dtype, own.nu)[1]
    chex.assert_trees_all_equal((own.mu, own.nu), (again.mu, again.nu))
    largest = jnp.abs(own.mu) == jnp.max(jnp.abs(own.mu), axis=0, keepdims=True)
    half = state_of(jnp.where(largest, own.mu / 2, own.mu), dtype)[1].mu
    np.testing.assert_array_equal(jnp.where(largest, 2 * half, half), own.mu)


@both
def test_a_second_moment_decays(dtype):
    """Without gradients, 1000 steps of b2 = 0.999 leave 1/e of it; rounded to the nearest, nothing
    would ever go.

    The relative variance of what is left is the sum over steps of 0.001 times the relative spacing.
    """
    tx, start, zero = adam(0.9, 0.999, 1e-8, dtype, dtype), jnp.ones((32, 64)).at[0].set(1.3), jnp.zeros((32, 64))
    state = tx.update(start, tx.init(start))[1]
    first = decoded(state).nu
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 1000, lambda _, s: tx.update(zero, s)[1], s))(state)
    left = decoded(state).nu / first
    assert abs(float(jnp.mean(left)) / math.exp(-1) - 1) < 0.05
    assert float(jnp.std(left) / jnp.mean(left)) < SPACING[dtype] ** 0.5
    nearest = jnp.float32(1.3).astype(dtype)
    assert (0.999 * nearest.astype(jnp.float32)).astype(dtype) == nearest


def test_a_second_moment_stays_near_the_truth():
    """Stationary gradients: the relative variance of V is |g^2 / V - 1| times the spacing, over 2:
    0.21^2 in 8 bits.
    """
    tx, size = adam(0.9, 0.999, 1e-8, FP8, FP8), jnp.exp(jax.random.normal(jax.random.key(0), (32, 64)))

    def step(state, key):
        return tx.update(size * jax.random.normal(key, size.shape), state)[1], None

    state, _ = jax.lax.scan(step, tx.init(size), jax.random.split(jax.random.key(1), 2000))
    ratio = decoded(state).nu / jnp.square(size) / (1 - 0.999**2000)
    assert abs(float(jnp.mean(ratio)) - 1) < 0.03
    assert float(jnp.std(ratio)) < 0.25


@both
def test_a_second_moment_above_zero_is_not_zero(dtype):
    """Entries up to 72 decades below the largest: a first moment over the root of 0 would be a leap
    of 1e8 times it.
    """
    x = jnp.ones((4, 8)).at[1].set(1e-12).at[2].set(1e-18).at[3].set(0.0)
    for size in (1, 1e18):
        _, own = state_of(x, dtype, jnp.square(x).at[0].mul(size**2))
        assert jnp.all((own.nu > 0) == (jnp.square(x) > 0))
    tx = adam(0.9, 0.999, 1e-8, dtype, dtype)
    state, update = tx.init(x), jax.jit(tx.update)
    for _ in range(5):
        u, state = update(x, state)
        assert jnp.max(jnp.abs(u)) < 1.5
        assert jnp.all(u[3] == 0)


@both
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_gradient_that_is_not_finite_shows(dtype, bad):
    """In float32 its entry is NaN from then on. So it is here, and no other entry is."""
    grads = jax.random.normal(jax.random.key(0), (4, 8))
    narrow, wide = adam(0.9, 0.999, 1e-8, dtype, dtype), optax.scale_by_adam()
    states = [narrow.init(grads), wide.init(grads)]
    for t in range(4):
        g = grads.at[1, 2].set(bad) if t == 1 else grads
        updates = []
        for i, tx in enumerate((narrow, wide)):
            u, states[i] = tx.update(g, states[i])
            updates.append(np.isnan(u))
        np.testing.assert_array_equal(*updates)
        assert updates[0].sum() == (t > 0)


@both
def test_squares_that_overflow_are_stored_as_the_largest_number(dtype):
    """V is infinite in float32, and what it divides 0. Here it is the largest that is stored: the
    update is as small, and the entry recovers.
    """
    tx = adam(0.9, 0.999, 1e-8, dtype, dtype)
    grads = jnp.ones((4, 8))
    state, update = tx.init(grads), jax.jit(tx.update)
    _, state = update(grads.at[0, 0].set(1e25), state)
    for _ in range(30):
        u, state = update(grads, state)
        assert is_finite((u, decoded(state)))
        assert jnp.max(jnp.abs(u[0, 0])) < 1e7  # the first moment is 1e24, its root 1e19
    assert jnp.abs(u[0, 0]) < 3e5
    np.testing.assert_allclose(u[:, 1:], 1, atol=0.3)
    vector = narrow_moments(optax.scale_by_adam(), None, FP8)  # no blocks: float32, and as there
    assert jnp.isinf(vector.update(grads[0] * 1e25, vector.init(grads[0]))[1].narrow.nu[0])


@both
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-30, 1e30])
def test_a_block_of_any_size_is_stored(dtype, size):
    x = jnp.full((4, 8), size, jnp.float32)
    _, own = state_of(x, dtype, x)
    assert is_finite((own.mu, own.nu))
    for moment in (own.mu, own.nu):
        np.testing.assert_allclose(moment, x, rtol=SPACING[dtype], atol=2.0**-126)


def test_what_is_beyond_the_largest_number_is_stored_as_that():
    for dtype in (BF16, FP8):
        largest = float(jnp.finfo(dtype).max)
        x = jnp.asarray([largest, -largest, 3.4e38, -3.4e38], jnp.float32)
        y = stochastically_rounded(x, dtype, jnp.zeros(4))
        np.testing.assert_array_equal(y, jnp.asarray([largest, -largest] * 2, jnp.float32))
        assert jnp.all(jnp.isnan(stochastically_rounded(jnp.asarray([jnp.inf, jnp.nan]), dtype, jnp.zeros(2))))


def test_without_types_it_is_optax():
    for dtype in (None, jnp.float32):
        tx = adam(0.9, 0.999, 1e-8, dtype, dtype)
        assert isinstance(tx.init(jnp.ones(3)), optax.ScaleByAdamState)
    assert narrow_moments(tx, None) is tx


@pytest.mark.parametrize("dtype", ["float16", "int8", jnp.uint8, "float8_e5m2", "float8"])
@pytest.mark.parametrize("argument", ["mu_dtype", "nu_dtype"])
def test_other_types_are_errors_when_building(argument, dtype):
    with pytest.raises(ValueError, match=f"{argument} is .*float8_e4m3fn"):
        grass_optax.grassjump(0.1, rank=2, **{argument: dtype})
    with pytest.raises(ValueError, match=f"{argument} is"):
        grass_optax.column_sgd(0.1, **{argument: dtype})
    with pytest.raises(ValueError, match=f"{argument} is"):
        grass_optax.badam(0.1, **{argument: dtype})


def test_only_a_state_with_moments_can_be_compressed():
    for tx in (optax.trace(0.9), optax.chain(optax.scale_by_adam()), optax.scale(1.0)):
        with pytest.raises(TypeError, match=r"not known to hold moments"):
            narrow_moments(tx, BF16).init(jnp.ones(3))


def test_a_scale_is_for_the_shorter_axis_and_none_for_vectors():
    """A column of (..., r, n), a row where the last axis is the shorter; none in vectors and single
    rows.
    """
    shapes = {"split": (3, 4, 16), "embedding": (32, 8), "square": (8, 8), "row": (1, 16), "bias": (16,), "scalar": ()}
    params = {k: jnp.ones(x) for k, x in shapes.items()} | {"complex": jnp.ones((4, 4), jnp.complex64)}
    state = adam(0.9, 0.999, 1e-8, FP8, FP8).init(params)
    scales = {k: getattr(x, "shape", None) for k, x in state.first_scale.items()}
    assert scales == {"split": (3, 1, 16), "embedding": (32, 1), "square": (1, 8)} | dict.fromkeys(
        ("row", "bias", "scalar", "complex")
    )
    narrow = ("split", "embedding", "square")
    assert {k: x.dtype.name for k, x in state.narrow.nu.items() if k != "complex"} == {
        k: FP8 if k in narrow else "float32" for k in shapes
    }
    assert state.narrow.mu["complex"].dtype == jnp.complex64
