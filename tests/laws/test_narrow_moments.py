"""Every method with moments in few bits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from tests.util import METHODS, grads_like, is_finite, make, of_each_kind, run

BF16, FP8 = "bfloat16", "float8_e4m3fn"
NARROW8 = {"mu_dtype": FP8, "nu_dtype": FP8}


@pytest.mark.parametrize(("dtype", "each"), [(BF16, 2), (FP8, 1)])
@pytest.mark.parametrize("m", [24, 2048])
def test_moments_in_few_bits_take_their_bytes_and_a_scale_each_column(dtype, each, m):
    """2nr each for both moments in 8 bits together, and four bytes for each column of each."""
    n, r = 4 * m, m // 4
    params = {"x": jax.ShapeDtypeStruct((m, n), jnp.float32)}
    tx = grass_optax.grassjump(0.1, rank=r, mu_dtype=dtype, nu_dtype=dtype)
    (leaf,) = grass_optax.memory_report(tx, params).leaves
    scales = 2 * 4 * n if dtype == FP8 else 0
    assert leaf.state_bytes == 4 * (m * r + 2) + 2 * n * r * each + scales
    report = grass_optax.memory_report(tx, params)
    assert report.shared_bytes == (4 + 4 + 4) + (4 + 4)  # the split's count, a count and a seed of each Adam


PARAMS = {"stack": jnp.ones((2, 16, 48))}


@of_each_kind(("grassjump", "apollo"))
def test_methods_train_as_in_float32(name):
    """Over two refreshes, from the same gradients, updates are finite and within a fifth of those
    in float32, by norm; ldadam, whose moments are rounded for a new basis at every step, within
    three tenths. One jitted program with a donated state; a run that continues from a saved one is
    the same to the bit.
    """
    gap = 1 if name == "ldadam" else 3
    tx, reference = make(name, 6, gap, **NARROW8), make(name, 6, gap)
    state, saved, updates = tx.init(PARAMS), None, []
    update = jax.jit(tx.update, donate_argnums=1).lower(PARAMS, state).compile()
    if not METHODS[name].has_svd:
        assert "custom-call" not in update.as_text()
        assert update.as_text().count(" conditional(") <= 1
    for t in range(8):
        if t == 4:
            saved = jax.tree.map(np.array, state)
        u, state = update(grads_like(PARAMS, t), state)
        updates.append(u)
    assert is_finite((updates, state))
    again = jax.tree.map(jnp.asarray, saved)
    for t in range(4, 8):
        u, again = update(grads_like(PARAMS, t), again)
        chex.assert_trees_all_equal(u, updates[t])
    chex.assert_trees_all_equal(again, state)
    errors = []
    for u, wanted in zip(updates, run(reference, PARAMS, 8)[0], strict=True):
        for leaf, x in wanted.items():
            errors.append(float(jnp.linalg.norm(u[leaf] - x) / jnp.linalg.norm(x)))
    assert max(errors) < (0.3 if name == "ldadam" else 0.2)
    # No Adam in the subspace; moments of one row; none but of heads.
    assert (max(errors) > 0) == (name not in ("sumo", "apollo_mini", "column_sgd", "racs", "sinkgd"))


def test_blocks_and_scaled_sgd_take_narrow_moments():
    """Those that the table above does not have."""
    layers = {"layers": {"kernel": jnp.ones((4, 8, 12))}, "norm": jnp.ones(8)}
    for tx in (
        grass_optax.badam(0.1, 2, **NARROW8),
        grass_optax.scale_by_badam(2, **NARROW8),
        grass_optax.frugal(0.1, 2, 2, projection="blocks", **NARROW8),
        grass_optax.column_sgd(0.1, weight_dimension_numbers=None, **NARROW8),
        grass_optax.scale_by_column_sgd(mu_dtype=BF16, nu_dtype=BF16),
        grass_optax.racs(0.1, **NARROW8),
        grass_optax.sinkgd(0.1, **NARROW8),
    ):
        params = layers if "Block" in str(jax.tree.structure(jax.eval_shape(tx.init, layers))) else HEAD
        state = tx.init(params)
        assert any(x.dtype.name in (BF16, FP8) for x in jax.tree.leaves(state))
        update = jax.jit(tx.update)
        for t in range(5):
            updates, after = update(grads_like(params, t), state, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
            state = after
            assert is_finite((updates, state))


HEAD = {"lm_head": jnp.ones((6, 20)), "kernel": jnp.ones((6, 8)), "stack": jnp.ones((2, 6, 8))}
