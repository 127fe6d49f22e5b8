"""A method and its oracles side by side: the same gradients, every update and every basis
compared.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grass_optax.bases import Basis
from tests import tolerances
from tests.util import grads_like, matrix_of

GAP, STEPS, RANK = 3, 12, 3  # refreshes at t = 4, 7, 10
SIZES = (1.0, 2.0, 0.5, 3.0, 1.0, 4.0, 0.3, 6.0, 1.0, 0.7, 8.0, 2.0)  # that of the gradient at each step
SHAPES = (("stack", (2, 6, 16)), ("wide", (6, 16)))
ALL_SHAPES = (*SHAPES, ("square", (8, 8)), ("tall", (16, 6)))


class Step(NamedTuple):
    """One update of a method."""

    grads: Any
    updates: Any
    state: Any


def matrices(tree):
    """Every matrix of a tree, as float64 NumPy."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return [x for leaf in leaves for x in leaf.reshape(-1, *leaf.shape[-2:])]


def turned(tree):
    """The same with m <= n: the test's own words for what layouts does."""
    return [x if x.shape[0] <= x.shape[1] else x.T for x in matrices(tree)]


@functools.cache
def gradients(t, shapes=SHAPES, dtype="float64"):
    """Those of step t + 1: column 2 is always zero, column 5 has momentum and sometimes no
    gradient.
    """
    params = {name: jnp.zeros(shape, dtype) for name, shape in shapes}
    zero = (2, 5) if t % 4 == 3 else (2,)
    return jax.tree.map(lambda g: (SIZES[t] * g).at[..., jnp.array(zero)].set(0.0), grads_like(params, t))


def history(tx, shapes=SHAPES, dtype="float64"):
    """The steps of a method under one jit."""
    params = jax.tree.map(jnp.zeros_like, gradients(0, shapes, dtype))
    state, update, steps = tx.init(params), jax.jit(tx.update), []
    for t in range(STEPS):
        grads = gradients(t, shapes, dtype)
        updates, state = update(grads, state, params)
        steps.append(Step(grads, updates, state))
    return steps


def split_state(state):
    return optax.tree_utils.tree_get(state, "SplitState", state)


def close(ours, expected, tolerance=tolerances.ORACLE64):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def aligned(own, given, any_sign):
    """The oracle's basis with the signs of the library's, which must be the same but for these."""
    signs = np.sign(np.sum(own * given, axis=0))
    assert any_sign or np.all(signs == 1)
    close(own * signs, given)
    return own * signs


def stored(t, step):
    bases = split_state(step.state).basis
    return matrices(jax.tree.map(matrix_of, bases, is_leaf=lambda x: isinstance(x, Basis)))


def always(t):
    return True


def never(t):
    return False


def after_first(t):
    """The first basis is drawn, or found from a draw."""
    return t > 0


def follow(steps, make, own=always, bases=stored, tolerance=tolerances.ORACLE64):
    """Compare the steps of a method with `make()`, one for each matrix.

    A basis is the oracle's own where `own(t)` says so, else the library's: `bases(t, step)`.
    """
    oracles = [make() for _ in turned(steps[0].grads)]
    for t, step in enumerate(steps):
        four = zip(oracles, turned(step.grads), turned(step.updates), bases(t, step), strict=True)
        for oracle, grad, update, given in four:
            due = t % oracle.gap == 0
            if due and own(t):
                basis = aligned(oracle.refresh(grad), given, oracle.any_sign)
            else:
                basis = given if due else oracle.S
                close(given, basis)
            close(update, oracle.step(grad, basis), tolerance)
    return oracles
