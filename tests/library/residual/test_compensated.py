"""Columns of the residual have one size, by an average of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import residual, split_by_subspace, subspaces, transport
from tests.util import is_finite

SHAPE, RANK = (8, 12), 4
GRAD = jax.random.normal(jax.random.key(0), SHAPE)


def sizes(grads, scale=1.0, **options):
    """The norms of the columns of each update; nothing comes from inside the subspace."""
    tx = split_by_subspace(
        subspaces.frozen(jnp.eye(8, RANK)), optax.scale(0.0), transport.keep(),
        residual.compensation(scale=scale, **options), rank=RANK, update_proj_gap=100,
    )  # fmt: skip
    state, norms = tx.init(GRAD), []
    for grad in grads:
        updates, state = tx.update(grad, state)
        assert is_finite((updates, state))
        norms.append(np.linalg.norm(updates, axis=0))
    return norms


@pytest.mark.parametrize("scale", [0.5, jnp.bfloat16(0.5)])
def test_without_memory_all_columns_have_one_size_but_those_that_vanish(scale):
    grad = (GRAD * 10.0 ** jnp.arange(12.0)[None]).at[:, 3].set(0.0)
    (norms,) = sizes([grad], scale, b1=0.0, max_norm_growth=None)
    np.testing.assert_allclose(norms, np.where(np.arange(12) == 3, 0, 0.5 * np.sqrt(8 - RANK)), rtol=1e-5)


def test_a_column_that_returns_is_measured_by_its_average():
    """p is 0.5, 0.25 and 0.125 + 0.5 times the square of column 3, and 0.5, 0.75, 0.875 times that
    of the others.
    """
    gone = GRAD.at[:, 3].set(0.0)
    norms = sizes([GRAD, gone, GRAD], b1=0.5, max_norm_growth=None)
    expected = [
        np.where(np.arange(12) == 3, x, 1 / y**0.5)
        for x, y in ((1 / 0.5**0.5, 0.5), (0, 0.75), (1 / 0.625**0.5, 0.875))
    ]
    np.testing.assert_allclose(norms, np.sqrt(8 - RANK) * np.array(expected), rtol=1e-5)


def test_the_norm_of_all_columns_grows_no_faster_than_its_limit():
    small = GRAD.at[:, 1:].set(0.0)
    free, limited = (sizes([small, GRAD], b1=0.0, max_norm_growth=growth) for growth in (None, 1.5))
    assert np.linalg.norm(free[1]) > 3 * np.linalg.norm(free[0])
    np.testing.assert_allclose(np.linalg.norm(limited[1]), 1.5 * np.linalg.norm(free[0]), rtol=1e-5)
