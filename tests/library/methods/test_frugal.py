"""FRUGAL: the scale of both parts, and its blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import grass_optax
from tests.util import WIDE, grads_like


def test_scale_of_frugal_is_that_of_both_parts():
    grad = grads_like(jnp.ones(WIDE), 0)
    one, quarter = (grass_optax.scale_by_frugal(3, scale=s, sign_scale=0.5) for s in (1.0, 0.25))
    whole, part = (tx.update(grad, tx.init(grad))[0] for tx in (one, quarter))
    np.testing.assert_allclose(part, 0.25 * whole, rtol=1e-6)


def test_frugals_blocks_get_adam_in_turn_and_otherwise_the_sign():
    """Adam for one layer of four, the sign for the others; state of one layer."""
    params = {"kernel": jnp.ones((4, 3, 5))}
    tx = grass_optax.scale_by_frugal(projection="blocks", update_proj_gap=2, sign_scale=0.5)
    state, update = tx.init(params), jax.jit(tx.update)
    seen = set()
    for t in range(8):
        grads = grads_like(params, t)
        u, state = update(grads, state)
        is_sign = np.asarray(jnp.all(u["kernel"] == 0.5 * jnp.sign(grads["kernel"]), axis=(1, 2)))
        assert is_sign.sum() == 3
        seen.add(int(np.argmin(is_sign)))
    assert seen == {0, 1, 2, 3}
    moments = optax.tree_utils.tree_get(state, "BlockCoordinateState").inner_state
    assert sum(x.size for x in jax.tree.leaves(moments) if x.ndim) == 2 * 3 * 5
