"""What Optax asks of contributed optimizers on a mesh since June 2026.

On a mesh with Explicit axes and on float16 params, `init` and `update` called without `jax.jit`
must agree on the type of every array of the state: shape, dtype and sharding. The suite
(optax/contrib/_sharding_test.py of google-deepmind/optax at 2edbcbe) is not in Optax's packages,
and its params are one stack. Our methods leave a stack to Adam unless dimension numbers say that it
is one, so both are tried.

Not here: `badam`, whose masks do not follow Explicit axes, and `coap`, whose exact SVD is an error
on a mesh of CPU devices before jaxlib 0.11.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.mesh.harness import RANDOMIZED
from tests.util import METHODS, long_but, optimizer, stacked_dimensions

FIRST = ("grassjump",)
TESTED = [name for name in METHODS if name not in ("badam", "coap")]
EXACT = ("galore", "golore", "fira")
STORED = [name for name in TESTED if METHODS[name].has_bases and not name.startswith("apollo")]


@pytest.mark.filterwarnings("ignore:no leaf is split")  # the suite's own params
@pytest.mark.parametrize("splits", [False, True], ids=["left to Adam", "split"])
@pytest.mark.parametrize("name", long_but(FIRST, TESTED))
def test_the_types_of_a_state_do_not_change(name, splits):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    options = (RANDOMIZED if name in EXACT else {}) | (
        {"weight_dimension_numbers": stacked_dimensions} if splits else {}
    )
    tx = optimizer(name, **options)
    with jax.set_mesh(mesh), jax.numpy_dtype_promotion("standard"):
        params = jnp.zeros((2, 8, 4), jnp.float16, out_sharding=NamedSharding(mesh, P(None, "x")))
        state = tx.init(params)
        updates, after = tx.update(params, state, params)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        assert jax.typeof(updates) == jax.typeof(params)
    if splits and name in STORED:  # it is the split that was tested
        assert optax.tree_utils.tree_get(after, "basis").shape == (2, 4, 2)
