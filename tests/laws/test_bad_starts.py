"""What a bad gradient leaves behind: nothing that is not seen, and nothing that lasts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from grass_optax import grassmann
from tests.util import LEAVES, OF_CHEAP_KINDS, compiled_method, grads_like, long_but, of_each_kind

BAD = 3


def has_nan(tree):
    return any(bool(jnp.any(jnp.isnan(x))) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


@of_each_kind(OF_CHEAP_KINDS)
def test_a_gradient_that_is_not_a_number_is_seen_for_as_long_as_it_matters(name):
    """In one column of one matrix. Updates show NaN as long as a state holds it. No column stops
    moving without a word.
    """
    tx, update = compiled_method(name)
    state = tx.init(LEAVES)
    for t in range(8):
        grads = grads_like(LEAVES, t)
        if t == BAD:
            grads["wide"] = grads["wide"].at[:, 2].set(jnp.nan)
        updates, state = update(grads, state)
        if t == BAD:
            assert has_nan(updates["wide"])
        if t > BAD:
            assert has_nan(updates["wide"]) == has_nan(state)
            assert np.all(np.linalg.norm(updates["wide"], axis=0) != 0)
        assert not has_nan({key: u for key, u in updates.items() if key != "wide"})


def norm_after(name, steps, start, **options):
    """||U|| after ten gradients of some size and others of size 1."""
    params = jnp.ones((16, 48))
    tx = getattr(grass_optax, f"scale_by_{name}")(**options)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(10 + steps):
        updates, state = update(grads_like(params, t) * (start if t < 10 else 1.0), state)
    return float(jnp.linalg.norm(updates))


@pytest.mark.parametrize(
    ("name", "start"),
    long_but(
        [("grassjump", 1e-30), ("apollo", 1e-10), ("apollo", 1e-4), ("apollo", 1e4), ("grassjump", 1e15)],
        itertools.product(("grassjump", "apollo"), (1e-30, 1e-10, 1e-4, 1e4, 1e15)),
    ),
)
def test_no_start_holds_the_updates_down(name, start):
    """Gradients so small that Adam's eps damps them leave a first norm that means nothing. Large
    ones hold Adam itself down, for as long as its second moment remembers them.
    """
    options = {"rank": 4, "update_proj_gap": 20}
    unlimited = norm_after(name, 60, start, max_norm_growth=None, **options)
    assert norm_after(name, 60, start, **options) > 0.7 * unlimited
    assert start > 1 or unlimited > 5


@pytest.mark.parametrize("noise", long_but([0.0, 3e-4, 0.1], [0.0, 1e-6, 3e-4, 1e-3, 3e-3, 1e-2, 0.1]))
def test_no_first_gradient_of_low_rank_holds_the_rest_down(noise):
    """What lies outside of its leading singular vectors is noise, below the rounding of the norms
    or above it.
    """
    shape, rank = (16, 48), 4
    left, right = (grassmann.random_basis(jax.random.key(n), (n, rank), jnp.float32) for n in shape)
    low = 5 * left @ right.T
    tx = grass_optax.scale_by_fira(rank, 1000)
    state, update = tx.init(low), jax.jit(tx.update)
    for t in range(60):
        grad = low + noise * grads_like(low, 0) if t == 0 else low + grads_like(low, t)
        updates, state = update(grad, state)
    basis = state.inner_states["split"].inner_state.basis
    outside = updates - basis @ (basis.T @ updates)
    assert jnp.linalg.norm(outside) > 5
