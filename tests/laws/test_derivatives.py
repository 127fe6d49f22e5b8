"""Derivatives through updates. Bases are constants of them; all else is differentiated.

Where a basis does not depend on what is differentiated by, differences show the same number. The
size of a gradient is such a thing: it moves no singular vector, and no draw.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.util import METHODS, SPLIT, grads_like, make

STEPS, RANK, GAP = 7, 3, 3  # refreshes at t = 4 and 7
# Their rules read moments or a step size times the gradient, so that bases depend on its size.
DEPENDS_ON_SIZE = ("ldadam", "coap", "online_subspace_descent", "subtrack_grad", "subtrack")


def loss_of(name, scanned):
    """What seven updates lead to, as a function of the sizes of their gradients."""
    params = {"wide": jnp.ones((6, 16), jnp.float64), "stack": jnp.ones((2, 8, 6), jnp.float64)}
    grads = [grads_like(params, t) for t in range(STEPS)]
    weights = grads_like(params, 99)
    tx = make(name, RANK, GAP, **dict.fromkeys(METHODS[name].needs, 6))

    def step(carry, size_and_grads):
        params, state = carry
        size, grads = size_and_grads
        updates, state = tx.update(jax.tree.map(lambda g: size * g, grads), state, params)
        return (jax.tree.map(lambda p, u: p - 0.1 * u, params, updates), state), None

    def loss(sizes):
        carry = params, tx.init(params)
        if scanned:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
            carry, _ = jax.lax.scan(jax.checkpoint(step), carry, (sizes, stacked))
        else:
            for t in range(STEPS):
                carry, _ = step(carry, (sizes[t], grads[t]))
        last, _ = carry
        return sum(jnp.sum(jnp.sin(last[key]) * weights[key]) for key in last)

    return loss


def sizes():
    return jnp.asarray(1 + 0.3 * np.sin(np.arange(STEPS)), jnp.float64)


@pytest.mark.long  # the default suite has derivatives over a refresh: test_composition.py
@pytest.mark.parametrize("name", SPLIT)
def test_derivatives_agree_backwards_and_forwards_in_a_loop_and_in_a_scan(name):
    with jax.enable_x64(True):
        direction = jnp.asarray(np.cos(np.arange(STEPS)), jnp.float64)
        found = []
        for scanned in (False, True):
            loss = loss_of(name, scanned)
            backwards = jax.jit(jax.grad(loss))(sizes())
            forwards = jax.jit(lambda x, loss=loss: jax.jvp(loss, (x,), (direction,))[1])(sizes())
            np.testing.assert_allclose(backwards @ direction, forwards, rtol=1e-8)
            found.append(float(forwards))
        np.testing.assert_allclose(*found, rtol=1e-8)
        assert abs(found[0]) > 1e-3
        if name not in DEPENDS_ON_SIZE:
            h, loss = 1e-5, jax.jit(loss_of(name, True))
            difference = (loss(sizes() + h * direction) - loss(sizes() - h * direction)) / (2 * h)
            np.testing.assert_allclose(found[0], difference, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["grassjump", "galore"])
def test_the_gradient_of_mapped_updates_is_that_of_each(name):
    with jax.enable_x64(True):
        loss = loss_of(name, True)
        many = jnp.stack([sizes(), 0.5 + sizes()])
        together = jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(loss)(x))))(many)
        for one, of_it in zip(many, together, strict=True):
            np.testing.assert_allclose(of_it, jax.jit(jax.grad(loss))(one), rtol=1e-7, atol=1e-12)
