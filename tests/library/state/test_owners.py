"""Which parameter an array of a state belongs to, whatever the parameters are called."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx, struct
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grass_optax import memory_report, residual, scale_by_grassjump, split_by_subspace, state_shardings, subspaces
from grass_optax import transport as transports
from grass_optax.state.owners import owners_of
from tests.util import of_each_kind, optimizer

MATRIX, TALL, SQUARE, VECTOR = (8, 12), (16, 8), (24, 24), (12,)
PLAIN = ("a", "b", "c")
# Fields of states and keys of the containers of Optax, in the order of the alphabet, as in a dict.
NAMES = [
    ("count", "mu", "nu"),
    ("basis", "inner_state", "rule_state"),
    ("held", "layout", "norm"),
    ("adam", "inner_states", "split"),
    ("ema", "error", "residual_state"),
    ("first_scale", "narrow", "seed"),
    ("acc_grads", "hyperparams", "inner_opt_state"),
]


def as_dict(names, values):
    return dict(zip(names, values, strict=True))


def as_named_tuple(names, values):
    return NamedTuple("Params", [(name, Any) for name in names])(*values)


@functools.cache
def dataclass_of(names):
    """One type for the same names, which it knows.

    To JAX 0.10 to 0.12, structures of two dataclasses are equal if their static fields are, and now
    and then `jax.jit` takes one for the other.
    """
    fields = {"__annotations__": dict.fromkeys((*names, "fields"), Any), "__module__": __name__}
    return struct.dataclass(type("Params", (), fields | {"fields": struct.field(pytree_node=False, default=names)}))


def as_dataclass(names, values):
    return dataclass_of(names)(**as_dict(names, values))


def as_list(names, values):
    return list(values)


def as_tuple(names, values):
    return tuple(values)


CONTAINERS = (as_dict, as_named_tuple, as_dataclass)


def nested(container, names):
    """Every name twice, on two levels. `made` is called with a shape."""
    inside = container(names, [jax.ShapeDtypeStruct(x, jnp.float32) for x in (MATRIX, VECTOR, SQUARE)])
    return container(names, [jax.ShapeDtypeStruct(TALL, jnp.float32), inside, jax.ShapeDtypeStruct((), jnp.float32)])


MESH = AbstractMesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def sharding(x):
    return NamedSharding(MESH, P(*("fsdp", "tensor")[: len(x.shape)]))


def answers(tx, params):
    """Bytes by the shape of the leaf, which is its own; specs of all arrays in their order."""
    report = memory_report(tx, params)
    shardings = state_shardings(tx, params, jax.tree.map(sharding, params))
    bytes_of = {leaf.shape: (leaf.state_bytes, leaf.adam_bytes) for leaf in report.leaves}
    return bytes_of, report.shared_bytes, [s.spec for s in jax.tree.leaves(shardings)]


def method(name):
    """badam has no stacks here, and gets its blocks by name in tests of its own."""
    return optimizer(name, rank=4, **({"weight_dimension_numbers": lambda p: None} if name == "badam" else {}))


@functools.cache
def plain_answers(name):
    return answers(method(name), nested(as_dict, PLAIN))


@of_each_kind(("grassjump", "online_subspace_descent"))
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_names_of_parameters_change_no_answer(name, container):
    for names in NAMES:
        assert answers(method(name), nested(container, names)) == plain_answers(name)


WRAPPED = {
    "alone": optax.scale_by_adam(),
    "split": split_by_subspace(
        subspaces.random_jump(),
        optax.scale_by_adam(),
        transports.keep(),
        residual.recovery(),
        rank=4,
        update_proj_gap=5,
    ),
    "multi_steps": optax.MultiSteps(optax.chain(optax.trace(0.9), optax.scale_by_adam()), 2),
    "masked": optax.masked(optax.scale_by_adam(), lambda p: jax.tree.map(lambda x: len(x.shape) > 1, p)),
    "injected": optax.inject_hyperparams(optax.scale_by_adam)(b1=0.9),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_names_change_no_answer_in_what_optax_wraps_around(wrapped, container):
    """A state on the outside too, where its own fields begin the paths."""
    tx = WRAPPED[wrapped]
    shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in (MATRIX, SQUARE, TALL)]
    expected = answers(tx, as_dict(PLAIN, shapes))
    assert all(own > 0 for own, _ in expected[0].values())
    for names in NAMES:
        assert answers(tx, container(names, shapes)) == expected


def test_names_change_no_answer_with_narrow_moments():
    tx = scale_by_grassjump(4, mu_dtype="float8_e4m3fn", nu_dtype="bfloat16")
    names = ("first_scale", "narrow", "seed")
    assert answers(tx, nested(as_dataclass, names)) == answers(tx, nested(as_dict, PLAIN))


@pytest.mark.parametrize("container", [as_list, as_tuple])
def test_params_in_a_sequence_are_no_chain(container):
    shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in (MATRIX, SQUARE)]
    for tx in (
        optax.chain(optax.scale_by_adam(), optax.trace(0.9)),
        WRAPPED["split"],
        method("online_subspace_descent"),
    ):
        assert answers(tx, container(PLAIN, shapes)) == answers(tx, dict(zip("ab", shapes, strict=True)))


def test_hyperparameters_are_no_parameters():
    """Although their dict has the keys of the params."""
    tx = optax.inject_hyperparams(optax.scale_by_adam)(b1=0.9, b2=0.99, eps=1e-8, eps_root=0.0)
    names = [str(name) for name in tx.init(jnp.ones(3)).hyperparams]
    params = dict.fromkeys(names, jax.ShapeDtypeStruct(MATRIX, jnp.float32))
    report = memory_report(tx, params)
    assert {leaf.state_bytes for leaf in report.leaves} == {2 * 4 * 8 * 12}


def test_hidden_parts_own_nothing_and_the_others_what_is_theirs():
    """A mask may hide a whole subtree."""
    params = {"mu": {"mu": jnp.ones(3), "nu": jnp.ones(3)}, "nu": jnp.ones(3)}
    tx = optax.masked(optax.trace(0.9), {"mu": False, "nu": True})
    assert [leaf.state_bytes for leaf in memory_report(tx, params).leaves] == [0, 0, 12]


def test_a_tree_of_another_structure_belongs_to_nobody():
    params = {"w": jnp.ones(3), "v": jnp.ones(3)}
    state = {"some": {"w": jnp.ones(3)}, "more": params | {"u": jnp.ones(3)}, "all": params, "list": [params]}
    found = owners_of(state, params)
    key = jax.tree_util.DictKey
    assert found == {
        (*start, key(name)): (key(name),)
        for start in ((key("all"),), (key("list"), jax.tree_util.SequenceKey(0)))
        for name in params
    }


def test_params_of_nnx_own_their_states():
    params = nnx.state(nnx.Linear(8, 12, rngs=nnx.Rngs(0)), nnx.Param)
    found = owners_of(jax.eval_shape(optax.adam(0.1).init, params), params)
    assert len(found) == 4
    assert set(found.values()) == {path for path, _ in jax.tree.leaves_with_path(params)}


def test_a_single_array_owns_its_state_and_lies_as_it_does():
    x = jax.ShapeDtypeStruct(MATRIX, jnp.float32)
    for tx in (scale_by_grassjump(4), WRAPPED["split"]):
        shardings = state_shardings(tx, x, sharding(x))
        split = optax.tree_utils.tree_get(shardings, "SplitState")
        assert (split.count.spec, split.basis.spec) == (P(), P("fsdp"))
        assert split.inner_state.mu.spec == P("fsdp", "tensor")
