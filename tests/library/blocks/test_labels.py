"""Which leaves are in blocks."""

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import scale_by_badam

N = 4


def test_stacked_matrices_are_in_the_blocks_by_default_or_by_dimension_numbers():
    ones = jnp.ones
    params = {
        "layers": {"kernel": ones((N, 3, 5)), "norm": ones((N, 3))},
        "embed": {"table": ones((2, 7, 3))}, "lm_head": {"kernel": ones((3, 7))}, "dense": ones((5, 2, 2)),
    }  # fmt: skip
    dims = {"layers": {"kernel": MuonDimensionNumbers(1, 2), "norm": None}, "embed": None, "lm_head": None,
            "dense": MuonDimensionNumbers(0, (1, 2))}  # fmt: skip

    def shape_of_moments(**options):
        state = scale_by_badam(**options).init(params)
        return jax.tree.map(jnp.shape, optax.tree_utils.tree_get(state, "BlockCoordinateState").inner_state.mu)

    hidden = optax.MaskedNode()
    others = {"embed": {"table": hidden}, "lm_head": {"kernel": hidden}, "dense": hidden}
    chosen = {"layers": {"kernel": (1, 3, 5), "norm": hidden}, **others}
    assert shape_of_moments(weight_dimension_numbers=dims) == chosen
    assert shape_of_moments(weight_dimension_numbers=lambda _: dims) == chosen
    with pytest.raises(ValueError, match="differ in size along axis 0"):  # by default "dense" is taken for a stack of 5
        shape_of_moments()
    params["dense"] = ones((N, 2, 2))
    assert shape_of_moments() == chosen | {"dense": (1, 2, 2)}
    assert shape_of_moments(blocks=["layers"]) == {"kernel": (1, N, 3, 5), "norm": (1, N, 3)}


def test_blocks_where_no_layer_is_stacked_are_an_error():
    params = {"layers": {"0": {"kernel": jnp.ones((8, 8))}, "1": {"kernel": jnp.ones((8, 8))}}}
    for tx in (grass_optax.badam(0.1), grass_optax.frugal(0.1, projection="blocks")):
        with pytest.raises(ValueError, match=r"no leaf stacks layers along axis 0.*path prefixes"):
            tx.init(params)
    assert grass_optax.badam(0.1, blocks=["layers/0", "layers/1"]).init(params)
