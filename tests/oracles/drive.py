"""A method and its oracles side by side: the same gradients, every update and every basis
compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests import tolerances
from tests.util import grads_like

GAP, STEPS, RANK = 3, 12, 3  # refreshes at t = 4, 7, 10
SIZES = (1.0, 2.0, 0.5, 3.0, 1.0, 4.0, 0.3, 6.0, 1.0, 0.7, 8.0, 2.0)  # that of the gradient at each step


def matrices(tree):
    """Every matrix of a tree with a wide one and a stack of two, as float64 NumPy."""
    return [np.asarray(x, np.float64) for x in (tree["wide"], *tree["stack"])]


@functools.cache
def gradients(t):
    """Those of step t + 1, in float64: column 2 is always zero, column 5 has momentum and sometimes
    no gradient.
    """
    params = {"wide": jnp.zeros((6, 16), "float64"), "stack": jnp.zeros((2, 6, 16), "float64")}
    zero = (2, 5) if t % 4 == 3 else (2,)
    return jax.tree.map(lambda g: (SIZES[t] * g).at[..., jnp.array(zero)].set(0.0), grads_like(params, t))


def history(tx, steps=STEPS):
    """Updates and states of `steps` steps under one jit."""
    update, out = jax.jit(tx.update), []
    params = jax.tree.map(jnp.zeros_like, gradients(0))
    state = tx.init(params)
    for t in range(steps):
        updates, state = update(gradients(t), state, params)
        out.append((updates, state))
    return out


def split_state(state):
    return optax.tree_utils.tree_get(state, "SplitState", state)


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerances.ORACLE64 * np.abs(expected).max())


def aligned(own, given, any_sign):
    """The oracle's basis with the signs of the library's, which must be the same but for these."""
    signs = np.sign(np.sum(own * given, axis=0))
    assert any_sign or np.all(signs == 1)
    close(own * signs, given)
    return own * signs


def stored(t, state):
    return matrices(split_state(state).basis)


def follow(steps, make, own=lambda t: True, bases=stored):
    """Compare the history of a method with `make()`, one for each matrix.

    A basis is the oracle's own where `own(t)` says so, else the library's: `bases(t, state)`.
    """
    oracles = [make() for _ in range(3)]
    for t, (updates, state) in enumerate(steps):
        four = zip(oracles, matrices(gradients(t)), matrices(updates), bases(t, state), strict=True)
        for oracle, grad, update, given in four:
            due = t % oracle.gap == 0
            if due and own(t):
                basis = aligned(oracle.refresh(grad), given, oracle.any_sign)
            else:
                basis = given if due else oracle.S
                close(given, basis)
            close(update, oracle.step(grad, basis))
    return oracles
