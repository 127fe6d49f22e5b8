"""What transports and rules read of an inner state, in few bits as in float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import grassmann, transport
from grass_optax._inner import states as inner_states
from grass_optax._inner.narrow import CompressedState, decoded, encoded
from grass_optax._inner.transforms import adam

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


@both
def test_transports_see_float32(dtype):
    """Decoded, moved, encoded: what they make of the narrow state is what they make of its numbers,
    rounded once.
    """
    moment = jax.random.normal(jax.random.key(0), (2, 6, 16))
    rotation = grassmann.random_basis(jax.random.key(1), (2, 6, 6), jnp.float32)
    state, own = state_of(moment, dtype)
    for move in (transport.rotate(0.9, 0.99), transport.first_moment_only()):
        wanted, found = move(own, rotation), move(state, rotation)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
        found = decoded(found)
        largest = jnp.max(jnp.abs(wanted.mu), axis=-2, keepdims=True) * 2**-16
        assert jnp.all(jnp.abs(found.mu - wanted.mu) <= SPACING[dtype] * (jnp.abs(wanted.mu) + largest))
        assert jnp.all(jnp.abs(found.nu - wanted.nu) <= SPACING[dtype] * (wanted.nu + largest**2 * 2**16))
        assert found.count == own.count
    chained = transport.rotate(0.9, 0.99)((state, optax.EmptyState()), rotation)
    assert isinstance(chained[0], CompressedState)
    np.testing.assert_array_equal(inner_states.first_moment(state, 0.9), own.mu)
    np.testing.assert_array_equal(inner_states.first_moment((optax.EmptyState(), state), 0.9), own.mu)
    empty = inner_states.cleared(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(empty, state)
    assert not any(np.any(x) for x in jax.tree.leaves(decoded(empty)))
    assert empty.seed == state.seed
    assert transport.keep()(state, rotation) is state
