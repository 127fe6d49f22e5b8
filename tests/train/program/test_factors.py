"""LoRA as a transformation is LoRA as two factors in the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.program.factors import Factors, LoraState, lora

SCALE, RATE = 2.0, 0.05
KERNELS = {"x": {"kernel": jax.random.normal(jax.random.key(1), (3, 6, 5))}, "y": jnp.ones((4, 7))}


def loss(kernels: dict) -> jax.Array:
    return sum(
        (jnp.sin(leaf) * jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape)).sum() for leaf in jax.tree.leaves(kernels)
    )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_weights_are_those_of_factors_trained_by_themselves(decay: float) -> None:
    inner = optax.adamw(RATE, weight_decay=decay)
    tx = lora(inner, rank=2, scale=SCALE, seed=3)
    state = tx.init(KERNELS)
    factors, adam = state.factors, inner.init(state.factors)

    def merged(factors: dict) -> dict:
        return jax.tree.map(lambda w, f: w + SCALE * f.a @ f.b, KERNELS, factors)

    kernels = KERNELS
    step = jax.jit(tx.update)
    for _ in range(5):
        updates, state = step(jax.grad(loss)(kernels), state, kernels)
        kernels = optax.apply_updates(kernels, updates)
        grads = jax.grad(lambda factors: loss(merged(factors)))(factors)
        steps, adam = inner.update(grads, adam, factors)
        factors = optax.apply_updates(factors, steps)
    for ours, theirs in zip(jax.tree.leaves(kernels), jax.tree.leaves(merged(factors)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(kernels), jax.tree.leaves(KERNELS), strict=True))


def test_the_first_factors_change_nothing_and_differ_by_kernel() -> None:
    tx = lora(optax.sgd(0.1), rank=2, scale=SCALE, seed=0)
    same = {"x": jnp.ones((6, 5)), "y": jnp.ones((6, 5))}
    state = tx.init(same)
    assert isinstance(state, LoraState)
    x, y = state.factors["x"], state.factors["y"]
    assert isinstance(x, Factors)
    assert x.a.shape == (6, 2)
    assert not np.any(x.b)
    assert np.all(np.abs(x.a) <= 6**-0.5)
    assert np.any(x.a != y.a)
    assert np.any(x.a != lora(optax.sgd(0.1), rank=2, scale=SCALE, seed=1).init(same).factors["x"].a)
