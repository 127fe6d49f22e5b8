"""What all methods share: rates, weight decay and masks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import grass_optax
from tests.util import LEAVES, METHODS, WIDE, grads_like, long_but, make, optimizer


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


@pytest.mark.parametrize("rate", ["1e-3", None, [0.1]])
def test_a_rate_is_a_number_or_a_schedule(rate):
    with pytest.raises(TypeError, match=r"^learning_rate is .*Give a number, or a schedule"):
        grass_optax.grassjump(rate)
    with pytest.raises(TypeError, match=r"^adam_learning_rate is '1e-3'"):
        grass_optax.grassjump(0.1, adam_learning_rate="1e-3")


@pytest.mark.parametrize(
    ("narrow", "name"),
    long_but(
        [*(("bfloat16", name) for name in ("grassjump", "badam", "column_sgd")), ("float16", "galore")],
        itertools.product(("bfloat16", "float16"), METHODS),
    ),
)
def test_updates_of_float32_parameters_are_float32_whatever_the_gradients_are(narrow, name):
    """As those of Optax's Adam. In half precision a small rate times the update is lost."""
    tx = optimizer(name, learning_rate=1e-6)
    grads = jax.tree.map(lambda g: g.astype(narrow), grads_like(LEAVES, 0))
    updates, _ = jax.jit(tx.update)(grads, tx.init(LEAVES), LEAVES)
    expected, _ = jax.jit(tx.update)(jax.tree.map(lambda g: g.astype(jnp.float32), grads), tx.init(LEAVES), LEAVES)
    for key in LEAVES:
        assert updates[key].dtype == jnp.float32
        np.testing.assert_allclose(updates[key], expected[key], rtol=1e-5, atol=1e-12)


def test_one_warning_says_that_nothing_is_split():
    attention = nnx.MultiHeadAttention(4, 16, rngs=nnx.Rngs(0))
    for params in ({"w": jnp.ones((100, 120))}, nnx.state(attention, nnx.Param)):
        tx = grass_optax.grassjump(0.1)
        with pytest.warns(UserWarning, match="no leaf is split at rank 128.*weight_dimension_numbers") as found:
            tx.init(params)
        assert len(found) == 1
    grass_optax.grassjump(0.1).init({"bias": jnp.ones(3)})  # there is nothing that could be
    grass_optax.grassjump(0.1, rank=8).init({"w": jnp.ones((100, 120)), "small": jnp.ones((4, 4))})


def test_an_update_that_is_not_jitted_compiles_once():
    """Its loop would be compiled at every call."""
    tx, params = make("grassjump"), {"wide": jnp.ones(WIDE)}
    state, compiled = tx.init(params), []

    def count(name, *_, **__):
        compiled.append(name)

    for t in range(6):
        if t == 3:  # the first two refreshes are over
            jax.monitoring.register_event_duration_secs_listener(count)
        _, state = tx.update(grads_like(params, t), state)
    jax.monitoring.clear_event_listeners()
    assert [name for name in compiled if name.endswith("backend_compile_duration")] == []
