"""A state that was saved and restored is the same to the bit, whichever library saved it."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from flax.training.train_state import TrainState
from orbax.checkpoint import v1

from tests.util import LEAVES, compiled_method, grads_like, make, of_each_kind, ran

SAVED, MORE = 5, 5  # after the refresh at t = 5; the next is at t = 9
NARROW = {"mu_dtype": "float8_e4m3fn", "nu_dtype": "bfloat16"}


def by_flax_bytes(state, like, path):
    return serialization.from_bytes(like, serialization.to_bytes(state))


def by_flax_dict(state, like, path):
    return serialization.from_state_dict(like, serialization.to_state_dict(state))


def by_pickle(state, like, path):
    return pickle.loads(pickle.dumps(state))


def by_orbax(state, like, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, like)


def by_orbax_pytree(state, like, path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        args = ocp.checkpoint_utils.construct_restore_args(like)
        return checkpointer.restore(path, item=like, restore_args=args)


def by_orbax_v1(state, like, path):
    v1.save(path, state)
    return v1.load(path, like)


def by_equinox(state, like, path):
    equinox = pytest.importorskip("equinox")
    equinox.tree_serialise_leaves(path, state)
    return equinox.tree_deserialise_leaves(path, like)


WAYS = (by_flax_bytes, by_flax_dict, by_pickle, by_orbax, by_orbax_pytree, by_orbax_v1, by_equinox)
every_way = pytest.mark.parametrize("way", WAYS)


def assert_same_state(restored, state):
    """In structure, types and bits."""
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    chex.assert_trees_all_equal(restored, state)


@functools.cache
def uninterrupted(name):
    return ran(name, SAVED + MORE)


@every_way
@of_each_kind()
def test_a_restored_state_is_the_same_and_continues_the_run(name, way, tmp_path):
    """Restored into a state that was just initialised."""
    updates, states = uninterrupted(name)
    state, (tx, _) = states[SAVED - 1], compiled_method(name)
    restored = way(state, tx.init(LEAVES), tmp_path / "state")
    assert_same_state(restored, state)
    again, after = ran(name, MORE, start=SAVED, state=restored)
    chex.assert_trees_all_equal(again, updates[SAVED:])
    assert_same_state(after[-1], states[-1])


# Equinox reads back no 8-bit floats, of parameters neither.
@pytest.mark.parametrize("way", [way for way in WAYS if way is not by_equinox])
def test_narrow_moments_are_restored_bit_for_bit(way, tmp_path):
    shapes = jax.eval_shape(make("grassjump", **NARROW).init, LEAVES)
    state = jax.tree.map(lambda x: jnp.arange(1, x.size + 1).reshape(x.shape).astype(x.dtype), shapes)
    like = jax.tree.map(jnp.zeros_like, state)
    assert_same_state(way(state, like, tmp_path / "state"), state)


@every_way
@pytest.mark.parametrize("basis", ["columns", "cosine"])
def test_bases_that_are_no_arrays_are_restored(basis, way, tmp_path):
    tx = make("grassjump", basis=basis)
    like = tx.init(LEAVES)
    state = jax.tree.map(lambda x: jnp.arange(x.size).reshape(x.shape).astype(x.dtype), like)
    assert_same_state(way(state, like, tmp_path / "state"), state)


@of_each_kind(("grassjump", "badam"))
def test_a_state_of_numpy_arrays_is_updated_without_jit(name):
    """As Flax restores it, and with an argument that cannot be traced."""
    tx = make(name)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(tx.init, LEAVES))
    _, after = jax.eval_shape(lambda: tx.update(LEAVES, state, LEAVES, value_fn=lambda params: 0.0))
    chex.assert_trees_all_equal_structs(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@of_each_kind(("grassjump",))
def test_a_train_state_of_flax_is_saved_with_it(name):
    tx, update = compiled_method(name)

    def started():
        direction = optax.GradientTransformation(tx.init, lambda grads, state, params: update(grads, state))
        return TrainState.create(apply_fn=None, params=LEAVES, tx=direction)

    def trained(train, start, steps):
        for t in range(start, start + steps):
            train = train.apply_gradients(grads=grads_like(LEAVES, t))
        return train

    train = trained(started(), 0, SAVED)
    restored = serialization.from_bytes(started(), serialization.to_bytes(train))
    assert restored.step == SAVED
    assert_same_state(restored.opt_state, train.opt_state)
    again, expected = trained(restored, SAVED, MORE), trained(train, SAVED, MORE)
    chex.assert_trees_all_equal((again.params, again.opt_state), (expected.params, expected.opt_state))
