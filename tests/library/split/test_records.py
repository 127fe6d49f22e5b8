"""The state of a split holds its layouts in a form that other libraries leave as it is."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import layouts
from grass_optax.bases import Fold

PARAMS = {"stack": jnp.ones((3, 4, 2, 6)), "layout": {"basis": jnp.ones((8, 8))}, "": jnp.ones((9, 4))}
DIMS = {
    "stack": MuonDimensionNumbers(np.int64(3), (np.int64(2), 1)),
    "layout": {"basis": MuonDimensionNumbers(-1, -2)},
    "": layouts.MATRIX,
}


def state_of(params, dims, **options):
    return grass_optax.scale_by_grassjump(2, weight_dimension_numbers=dims, **options).init(params)


def split_of(state):
    return optax.tree_utils.tree_get(state, "SplitState")


@pytest.mark.parametrize(("params", "dims"), [(PARAMS, DIMS), (PARAMS["stack"], DIMS["stack"]), ({}, None)])
def test_the_layouts_of_a_state_are_those_of_its_params(params, dims):
    state = split_of(state_of(params, dims))
    assert state.layouts == layouts.matrix_layouts(params, dims)
    assert jax.tree.leaves(state.layout) == []


def test_leaves_that_are_not_split_have_no_layout():
    state = split_of(state_of({"w": jnp.ones((6, 16)), "b": jnp.ones(3)}, None))
    assert state.layouts == {"w": layouts.MatrixLayout((6, 16), (0,), (1,)), "b": optax.MaskedNode()}


def test_a_state_shows_the_folds_that_it_does_not_store():
    """Also those with blocks of two sizes, which count as one; no other basis that it lacks."""
    state = split_of(grass_optax.scale_by_foam(3, weight_dimension_numbers=DIMS).init(PARAMS))
    assert state.bases == {"stack": Fold(6, 3), "layout": {"basis": Fold(8, 3)}, "": Fold(4, 3)}
    assert state.block_counts == {"stack": 3, "layout": {"basis": 1}, "": 1}
    assert jax.tree.leaves((state.basis, state.layout)) == []
    drawn = split_of(state_of(PARAMS, DIMS, store_basis=False))
    assert drawn.bases == drawn.basis == jax.tree.map(lambda _: optax.MaskedNode(), PARAMS)
    stored = split_of(state_of(PARAMS, DIMS))
    assert all(map(operator.is_, jax.tree.leaves(stored.bases), jax.tree.leaves(stored.basis)))


def test_states_of_other_layouts_are_of_other_structures():
    """So a function that is compiled for one is not called with the other."""
    square = jnp.ones((8, 8))
    a, b = (state_of(square, MuonDimensionNumbers(*axes)) for axes in ((0, 1), (1, 0)))
    assert jax.tree.structure(a) != jax.tree.structure(b)


def test_the_tools_of_optax_find_and_replace_what_is_beside_and_inside():
    """`tree_set` walks through the whole state, the layouts included."""
    rate = optax.inject_hyperparams(optax.scale)(2.0)
    tx = optax.chain(rate, grass_optax.scale_by_grassjump(2, weight_dimension_numbers=DIMS))
    state = tx.init(PARAMS)
    changed = optax.tree_utils.tree_set(state, step_size=jnp.asarray(3.0))
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert optax.tree_utils.tree_get(changed, "step_size") == 3.0
    changed = optax.tree_utils.tree_set(state, count=jnp.int32(7))
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert split_of(changed).count == 7
