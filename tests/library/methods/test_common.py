"""What all methods share: rates, weight decay and masks."""

import jax.numpy as jnp
import numpy as np

import grass_optax
from tests.util import WIDE, grads_like


def test_weights_decay_under_a_mask_and_other_leaves_have_their_own_rate():
    """W <- W - lr (U + decay W) on split leaves, with its own rate on the others."""
    params = {"w": 2.0 * jnp.ones(WIDE), "v": 2.0 * jnp.ones(WIDE), "b": 2.0 * jnp.ones(3)}
    mask = {"w": True, "v": False, "b": True}
    tx = grass_optax.grassjump(0.1, rank=2, adam_learning_rate=0.01, weight_decay=0.5, mask=mask)
    direction = grass_optax.scale_by_grassjump(rank=2)
    grads = grads_like(params, 0)
    update, _ = tx.update(grads, tx.init(params), params)
    u, _ = direction.update(grads, direction.init(params))
    np.testing.assert_allclose(update["w"], -0.1 * (u["w"] + 0.5 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(update["v"], -0.1 * u["v"], rtol=1e-5)
    np.testing.assert_allclose(update["b"], -0.01 * (u["b"] + 0.5 * 2.0), rtol=1e-5)
    by_function = grass_optax.grassjump(
        0.1, rank=2, adam_learning_rate=0.01, weight_decay=0.5, mask=lambda p: {k: k != "v" for k in p}
    )
    again, _ = by_function.update(grads, by_function.init(params), params)
    for name in params:
        np.testing.assert_array_equal(again[name], update[name])
