"""Every method in `nnx.Optimizer`, and on the boxed params of Linen, with metadata and without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import grass_optax
from grass_optax import residual, subspaces, transport
from tests.util import LEAVES, METHODS, every_method, grads_like, long_but, make, of_each_kind

SPECS = {"wide": ("fsdp", None), "head": (None, "fsdp"), "stack": (None, "fsdp", None), "bias": ("fsdp",)}
SHAPES = {spec: LEAVES[leaf].shape for leaf, spec in SPECS.items()}
FLOAT8 = {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}
GAP = 2
# A norm beside stored bases, bases that are not stored, blocks, and an average in a variable.
KINDS = ("grassjump", "apollo", "badam", "column_sgd")


class Weights(nnx.Module):
    """`LEAVES` as the weights of a module, with the sharding of each or without."""

    def __init__(self, annotated):
        for leaf, x in LEAVES.items():
            metadata = {"out_sharding": SPECS[leaf]} if annotated else {}
            setattr(self, leaf, nnx.Param(jnp.ones(x.shape), **metadata))


@pytest.fixture(autouse=True)
def mesh():
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield mesh


def pure(model):
    return nnx.as_pure(nnx.state(model, nnx.Param))


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def shapes_by_spec(state, kind, spec_of):
    """The shapes of the arrays of a state that are in a box with a sharding."""
    boxes = [x for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind)) if isinstance(x, kind)]
    return {(spec_of(box), x.shape) for box in boxes if spec_of(box) for x in jax.tree.leaves(box)}


@pytest.mark.parametrize(
    ("name", "options"),
    long_but(
        [*((name, {}) for name in KINDS), ("column_sgd", FLOAT8)],
        [*((name, {}) for name in METHODS), ("grassjump", FLOAT8), ("column_sgd", FLOAT8)],
    ),
)
def test_only_arrays_that_are_shaped_like_a_parameter_have_its_metadata(name, options):
    """Among them are Adam's moments of leaves that are not split, as in `optax.adamw`."""
    tx = make(name, **options)
    optimizer = nnx.Optimizer(Weights(True), tx, wrt=nnx.Param)
    in_nnx = shapes_by_spec(optimizer.opt_state, nnx.Variable, lambda x: x.get_metadata("out_sharding", None))
    boxed = {leaf: linen.Partitioned(x, SPECS[leaf]) for leaf, x in LEAVES.items()}
    in_linen = shapes_by_spec(jax.eval_shape(tx.init, boxed), linen.Partitioned, lambda x: x.names)
    assert (SPECS["bias"], SHAPES[SPECS["bias"]]) in in_nnx
    assert in_nnx == in_linen <= set(SHAPES.items())


@of_each_kind(KINDS)
def test_an_nnx_optimizer_takes_the_steps_of_plain_optax(name):
    """To the bit, states too, across a refresh, and with metadata or without."""
    tx = make(name, gap=GAP)
    tx = optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update))
    params = pure(Weights(False))
    state, history = tx.init(params), []
    for t in range(GAP + 1):
        updates, state = tx.update(grads_like(params, t), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    for annotated in (False, True):
        model = Weights(annotated)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for t, expected in enumerate(history):
            optimizer.update(model, grads_like(nnx.state(model, nnx.Param), t))
            assert_equal(pure(model), expected)
        assert_equal(nnx.as_pure(optimizer.opt_state), state)


def test_a_rule_of_ones_own_may_keep_any_state():
    """The rule keeps a dict, a tuple and scalars, and the residual a state of its own."""

    def update(refresh):
        seen, (norm,) = refresh.rule_state["seen"], refresh.rule_state["norms"]
        basis = jnp.roll(jnp.eye(*refresh.basis.shape), seen, axis=0)
        return basis, {"seen": seen + 1, "norms": (norm + jnp.linalg.norm(refresh.grad),)}

    rule = subspaces.SubspaceRule(
        init=lambda shape, dtype: {"seen": jnp.zeros((), jnp.int32), "norms": (jnp.zeros((), dtype),)}, update=update
    )
    tx = grass_optax.assemble(
        rule, transport.reset(), optax.chain(residual.recovery_scaling(), optax.trace(0.9)), rank=2, update_proj_gap=1
    )
    model = Weights(True)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    for t in range(3):
        step(model, optimizer, grads_like(nnx.state(model, nnx.Param), t))
    states = optax.tree_utils.tree_get(nnx.as_pure(optimizer.opt_state), "rule_state")
    assert {leaf: int(state["seen"]) for leaf, state in states.items() if state} == {"wide": 3}


@pytest.mark.parametrize(
    ("name", "options"),
    [("apollo", {}), ("badam", {}), ("column_sgd", FLOAT8)],
)
def test_boxed_params_of_linen_get_the_updates_of_plain_ones(name, options):
    tx = make(name, gap=1, **options)
    boxed = {leaf: linen.Partitioned(x, SPECS[leaf]) for leaf, x in LEAVES.items()}
    plain_state, state, update = tx.init(LEAVES), tx.init(boxed), jax.jit(tx.update)
    for t in range(2):
        expected, plain_state = update(grads_like(LEAVES, t), plain_state, LEAVES)
        updates, state = update(grads_like(boxed, t), state, boxed)
        assert_equal(linen.unbox(updates), expected)
    assert jax.tree.structure(updates) == jax.tree.structure(boxed)


@every_method
def test_reports_and_shardings_of_an_nnx_state_are_those_of_plain_dicts(name, mesh):
    """With counts for each matrix, and Adam's moments that are in variables."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), make(name))
    params = nnx.state(Weights(True), nnx.Param)
    report = grass_optax.memory_report(tx, params)
    assert report == grass_optax.memory_report(tx, LEAVES)
    places = {leaf: NamedSharding(mesh, P(*spec)) for leaf, spec in SPECS.items()}
    expected = grass_optax.state_shardings(tx, LEAVES, places)
    found = grass_optax.state_shardings(tx, params, nnx.get_named_sharding(params, mesh))
    assert jax.tree.leaves(found) == jax.tree.leaves(expected)
    assert jax.tree.structure(found) == jax.tree.structure(jax.eval_shape(tx.init, params))
    assert jax.tree.leaves(grass_optax.state_shardings(tx, params, places["bias"])) == jax.tree.leaves(
        grass_optax.state_shardings(tx, LEAVES, places["bias"])
    )


def test_dimension_numbers_may_be_a_tree_with_variables_or_without():
    """A tree that was mapped from a state at the start fits the arrays of an update."""
    model = Weights(True)
    params = nnx.state(model, nnx.Param)
    dims = functools.partial(jax.tree.map, lambda x: optax.contrib.MuonDimensionNumbers(-2, -1) if x.ndim > 1 else None)
    for tree in (dims, dims(params), dims(nnx.as_pure(params))):
        tx = grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers=tree)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        _, state = jax.eval_shape(tx.update, pure(model), nnx.as_pure(optimizer.opt_state), pure(model))
        bases = optax.tree_utils.tree_get(state, "basis")
        assert {leaf for leaf, x in bases.items() if jax.tree.leaves(x)} == {"wide", "head", "stack"}
