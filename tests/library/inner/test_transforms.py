"""Any Optax transformation inside the subspace: which work with which method, and what a move does
to their states.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import grassmann, transport
from grass_optax._inner import states as inner_states
from tests import tolerances
from tests.util import WIDE, grads_like, long_but, run

INNERS = {  # beside Adam, which is in all other tests
    "adafactor": optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.clip_by_block_rms(1.0), optax.ema(0.9)
    ),
    "lion": optax.scale_by_lion(),
    "trace": optax.trace(0.9),
    "ema": optax.ema(0.9),
}
ROTATING = ("grassjump", "ldadam")  # their transport must know what is in the state
METHODS = ("grassjump", "galore", "fira", "apollo", "ldadam", "frugal")


def optimizer(method, inner):
    gap = 1 if method == "ldadam" else 2
    return getattr(grass_optax, f"scale_by_{method}")(rank=3, update_proj_gap=gap, inner=INNERS[inner])


@pytest.mark.parametrize(
    ("method", "inner"),
    long_but(
        [
            *itertools.product(("galore", "apollo"), INNERS),
            *((method, "trace") for method in ("grassjump", "fira", "ldadam", "frugal")),
            *((method, "adafactor") for method in ROTATING),  # an error
        ],
        [x for x in itertools.product(METHODS, INNERS) if x != ("ldadam", "ema")],
    ),
)
def test_any_inner_runs_over_refreshes(method, inner):
    tx = optimizer(method, inner)
    if inner == "adafactor" and method in ROTATING:
        with pytest.raises(TypeError, match=r"inner state FactoredState"):
            tx.update(grads_like(jnp.zeros(WIDE), 0), tx.init(jnp.zeros(WIDE)))
        return
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Optax's own arithmetic
        updates, states = run(tx, jnp.zeros(WIDE), 6)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, states)))
    assert all(np.any(x) for x in updates)


@pytest.mark.parametrize("inner", ["lion", "trace", "ema"])
def test_a_rotation_of_a_first_moment_alone_is_exact(inner):
    """M' = Q M, and nothing else of the state changes."""
    moment = jax.random.normal(jax.random.key(0), (2, 3, 16))
    rotation = grassmann.random_basis(jax.random.key(1), (2, 3, 3), jnp.float32)
    before = INNERS[inner].update(moment, INNERS[inner].init(moment), moment)[1]
    after = transport.rotate(0.9, 0.99)(before, rotation)
    moments = [np.asarray(inner_states.first_moment(x, 0.0)) for x in (before, after)]
    np.testing.assert_allclose(moments[1], rotation @ moments[0], atol=tolerances.SAME32)
    assert np.abs(moments[1] - moments[0]).max() > 0.01
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert optax.tree_utils.tree_get(after, "count") == optax.tree_utils.tree_get(before, "count")
