"""Residuals over roots: of what they must be the residual, and zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import residual, split_by_subspace, subspaces, transport
from tests.util import is_finite

PARAMS = {"kernel": jnp.ones((8, 12))}


def split(outside, rule=None, inner=None, **options):
    return split_by_subspace(
        rule or subspaces.fold(), inner or optax.scale_by_adam(), transport.keep(), outside, rank=2,
        update_proj_gap=1, **options,
    )  # fmt: skip


def test_block_scaling_is_for_folds():
    tx = split(residual.block_scaling(0.9, 0.999, 1e-8), subspaces.random_jump())
    with pytest.raises(TypeError, match=r"basis is .*Give the split the rule subspaces.fold\(\)"):
        tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize("make", [residual.block_scaling, residual.unfolded_adam])
def test_both_read_the_moments_of_adam(make):
    tx = split(make(0.9, 0.999, 1e-8), inner=optax.scale_by_lion())
    with pytest.raises(TypeError, match="inner state ScaleByLionState is not Adam's"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_lifted_moments_are_those_of_any_basis():
    """Of columns of I, without the residual: Adam on the rows that were chosen, zero elsewhere."""
    args = 0.9, 0.999, 1e-8
    grad = jax.random.normal(jax.random.key(0), (8, 12))
    tx = split(residual.unfolded_adam(*args, residual_scale=0.0), subspaces.columns(), lift=False)
    updates, state = tx.update(grad, tx.init(grad))
    chosen = np.any(np.asarray(updates) != 0, axis=-1)
    assert np.sum(chosen) == 2
    np.testing.assert_allclose(updates, np.where(chosen[:, None], np.sign(grad), 0), atol=1e-4)


def test_scale_multiplies_the_whole_of_either():
    for name in ("foam", "gwt"):
        grad = jax.random.normal(jax.random.key(0), (8, 12))
        one, half = (getattr(grass_optax, f"scale_by_{name}")(2, scale=scale) for scale in (1.0, 0.5))
        first, second = (tx.update(grad, tx.init(grad))[0] for tx in (one, half))
        np.testing.assert_allclose(second, 0.5 * first, rtol=1e-6)


@pytest.mark.parametrize("name", ["foam", "gwt"])
def test_zeros_move_nothing_and_a_block_without_a_mean_is_finite(name):
    tx = getattr(grass_optax, f"scale_by_{name}")(2)
    zero = jnp.zeros((8, 12))
    updates, state = tx.update(zero, tx.init(zero))
    np.testing.assert_array_equal(updates, zero)
    rows = jnp.array([1.0, -1.0, 1.0, -1.0, 2.0, 2.0, 0.0, 0.0])  # the first block sums to zero
    updates, state = tx.update(jnp.outer(rows, jnp.ones(12)), state)
    assert is_finite((updates, state))
