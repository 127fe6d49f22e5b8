"""What a draw depends on: the key, the name of the matrix and its index, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax._trees.keys import checked_key, folded, matrix_numbers, numbers_of, typed_key

KEY = jax.random.key(0, impl="threefry2x32")


def numbers(tree):
    """The numbers of the only leaf of a tree, a stack with the batch axes of its value."""
    ((path, batch),) = jax.tree.leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return matrix_numbers(numbers_of([path])[path], batch)


def test_the_key_of_a_matrix_is_its_index_folded_into_the_key_of_its_path():
    stack = numbers({"layers": {"kernel": (4,)}})
    of_path = folded(KEY, jnp.asarray(numbers({"layers": {"kernel": ()}})))
    assert folded(KEY, jnp.asarray(stack[3])) == jax.random.fold_in(of_path, 3)


@pytest.mark.parametrize(
    "unstacked",
    [
        {"layers": {"2": {"experts": {"kernel": (3,)}}}},
        {"layers": [None, None, {"experts": {"kernel": (3,)}}]},
        {"layers": {2: {"experts": {"kernel": (3,)}}}},
        {"layers": {"experts": {"kernel": {"2": (3,)}}}},
    ],
)
def test_a_number_in_a_path_is_an_index_of_a_stack(unstacked):
    stack = numbers({"layers": {"experts": {"kernel": (4, 3)}}})
    np.testing.assert_array_equal(numbers(unstacked), stack[2])


def test_names_and_indices_tell_matrices_apart():
    trees = [{"a": {"kernel": (3, 2)}}, {"b": {"kernel": (3, 2)}}, {"layers_0": (3,)}, {"layers_1": (3,)}, {"a": ()}]
    rows = [tuple(row) for tree in trees for row in numbers(tree).reshape(-1, numbers(tree).shape[-1]).tolist()]
    assert len(set(rows)) == 6 + 6 + 3 + 3 + 1


@pytest.mark.parametrize(
    "tree",
    [
        {"a": {"b": jnp.ones((6, 16))}, "a/b": jnp.ones((6, 16))},
        {"a": {"3": {"b": jnp.ones((6, 16))}, "b": {"3": jnp.ones((6, 16))}}},
    ],
)
def test_leaves_whose_paths_read_the_same_draw_apart(tree):
    tx = grass_optax.scale_by_grassjump(3, 4)
    _, state = tx.update(tree, tx.init(tree))
    one, other = jax.tree.leaves(optax.tree_utils.tree_get(state, "basis"))
    assert np.abs(np.asarray(one - other)).max() > 0.1


@pytest.mark.parametrize(
    "key",
    [
        7,
        np.int64(7),
        jnp.int32(7),
        jax.random.key_data(jax.random.key(7)),
        np.asarray(jax.random.key_data(jax.random.key(7))),
        jax.random.key(7),
    ],
)
def test_a_key_may_be_an_int_a_key_or_its_data(key):
    assert typed_key(checked_key(key)) == jax.random.key(7)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        1.5,
        2**70,
        jax.random.split(KEY),
        jnp.zeros(2, jnp.int32),
        jnp.zeros(3),
        jnp.zeros((2, 2), jnp.uint32),
        jax.random.key(0, impl="rbg"),
    ],
)
def test_another_key_is_an_error_that_says_what_to_give(key):
    with pytest.raises(ValueError, match=r"Give an int, or jax.random.key\(seed, impl='threefry2x32'\)"):
        checked_key(key)
