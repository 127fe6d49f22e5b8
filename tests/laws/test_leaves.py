"""Leaves as `optax.adamw` takes them: without entries, and numbers of Python and NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

import grass_optax
from grass_optax import layouts, residual, subspaces, transport
from grass_optax._inner.transforms import orthogonalize
from tests.util import STACK, WIDE, grads_like, of_each_kind, optimizer, run, stacked_dimensions

MESH = AbstractMesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
NARROW = {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}
SOME = {"stack": jnp.ones(STACK), "b": jnp.ones(3)}
EMPTY = {"layers": jnp.ones((0, 6, 16)), "thin": jnp.ones((6, 0)), "flat": jnp.ones((0, 6)), "none": jnp.ones(0)}


def answers(tx, params):
    """The bytes of every leaf, of a state that can be updated and be put on a mesh."""
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    report = grass_optax.memory_report(tx, params)
    grass_optax.state_shardings(tx, params, NamedSharding(MESH, P()))
    return {leaf.path: leaf.state_bytes for leaf in report.leaves}


@of_each_kind()
def test_a_leaf_without_entries_has_nothing_to_be_done_for_it(name):
    """A stack of no layers, a matrix without a side, alone and beside others."""
    tx = optimizer(name, weight_dimension_numbers=stacked_dimensions)
    assert not any(answers(tx, EMPTY).values())
    assert answers(tx, EMPTY | SOME) == answers(tx, SOME) | dict.fromkeys(EMPTY, 0)


@of_each_kind(("grassjump",))
def test_a_leaf_without_entries_has_no_narrow_moments(name):
    assert not any(answers(optimizer(name, weight_dimension_numbers=stacked_dimensions, **NARROW), EMPTY).values())


@pytest.mark.parametrize("name", ["grassjump", "badam"])
def test_leaves_without_entries_change_nothing_of_the_others(name):
    tx = optimizer(name, weight_dimension_numbers=stacked_dimensions)
    together = run(tx, SOME, 1)[0][0]
    grads = grads_like(SOME, 0) | EMPTY
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), SOME | EMPTY)
    chex.assert_trees_all_equal(updates, together | EMPTY)


def test_a_split_takes_a_stack_of_no_layers():
    """`split_by_subspace` itself, which splits every leaf."""
    params = {"layers": jnp.ones((0, 6, 16))}
    for rule in (subspaces.random_jump(), subspaces.svd(), subspaces.range_finder()):
        for inner in (optax.scale_by_adam(), orthogonalize()):
            tx = grass_optax.split_by_subspace(
                rule, inner, transport.keep(), residual.recovery(),
                rank=2, update_proj_gap=1, weight_dimension_numbers=stacked_dimensions,
            )  # fmt: skip
            updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params))
            assert updates["layers"].shape == (0, 6, 16)


def test_blocks_of_nothing_are_an_error():
    tx = grass_optax.block_coordinate(optax.scale_by_adam(), switch_gap=2)
    with pytest.raises(ValueError, match="size of 0 along the axis of the blocks.*Keep such leaves away"):
        tx.init({"layers": jnp.ones((0, 6, 16))})


def test_no_warning_says_that_leaves_without_entries_are_not_split():
    """Warnings are errors here."""
    grass_optax.grassjump(0.1, rank=2).init(EMPTY)


NUMBERS = {
    "stack": np.ones(STACK),  # float64
    "wide": np.ones(WIDE, np.float32),
    "head": np.ones(WIDE, np.float32),
    "bias": np.ones(3),
    "scalar": np.float64(2.0),
    "number": 2.0,
}


@of_each_kind(("grassjump", "badam", "column_sgd"))
def test_numbers_of_python_and_numpy_get_updates_like_adamw(name):
    """Traced with the numbers as they are: under `jax.jit` they would be arrays of JAX."""

    def updates(tx):
        return jax.eval_shape(lambda: tx.update(NUMBERS, tx.init(NUMBERS), NUMBERS)[0])

    tx = optimizer(name, weight_dimension_numbers=stacked_dimensions, weight_decay=0.1)
    with jax.numpy_dtype_promotion("standard"):
        chex.assert_trees_all_equal_shapes_and_dtypes(updates(tx), updates(optax.adamw(0.1)))


def test_numbers_are_optimized_as_arrays_are():
    """By updates that are not jitted, whose state stays of one type, weak types included."""
    tx = grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers=stacked_dimensions)
    arrays = jax.tree.map(jnp.asarray, NUMBERS)
    with jax.numpy_dtype_promotion("standard"):
        state, expected = tx.init(NUMBERS), tx.init(arrays)
        updates, after = tx.update(NUMBERS, state, NUMBERS)
        chex.assert_trees_all_equal((updates, after), tx.update(arrays, expected, arrays))
    assert grass_optax.memory_report(tx, NUMBERS) == grass_optax.memory_report(tx, arrays)
    shardings = [grass_optax.state_shardings(tx, x, NamedSharding(MESH, P())) for x in (NUMBERS, arrays)]
    assert shardings[0] == shardings[1]
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves((updates, state)))


def test_blocks_by_prefix_may_hold_numbers():
    params = {"a": {"w": np.ones(WIDE), "s": 1.0}, "b": {"w": np.ones(WIDE), "s": 2.0}}
    tx = grass_optax.badam(0.1, 1, blocks=["a", "b"], order="ascending")
    updates, state = tx.update(params, tx.init(params), params)
    assert float(updates["a"]["s"]) < 0 == float(updates["b"]["s"])
    updates, _ = tx.update(params, state, params)
    assert float(updates["b"]["s"]) < 0 == float(updates["a"]["s"])


def test_the_tools_on_layouts_take_numbers():
    assert layouts.split_labels(rank=2)(NUMBERS)["wide"] == layouts.SPLIT
    assert layouts.split_labels(rank=2)(NUMBERS)["number"] == layouts.ADAM
    assert layouts.matrix_layouts({"w": np.ones(WIDE)})["w"].shape == WIDE
    assert layouts.dimension_numbers({"w": np.ones(WIDE), "s": 1.0}, {"w": layouts.MATRIX, "s": None})["s"] is None
    with pytest.raises(TypeError, match=r"leaf 's' of shape \(\) and type int32 is not floating point"):
        layouts.split_labels(rank=2)({"s": 1})
