"""What must hold on a mesh, over methods and meshes. `test_sharding` runs this file in a process
with eight devices; by hand:

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest tests/mesh/eight_devices.py
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import state_shardings
from hlo.traffic import collectives
from tests import tolerances
from tests.util import METHODS, grads_like, make, stacked_dimensions

MESHES = {"8": ((8,), ("fsdp",)), "4x2": ((4, 2), ("fsdp", "tensor")), "2x4": ((2, 4), ("fsdp", "tensor"))}
RANK, GAP, STEPS = 3, 2, 5
# No m or n of one leaf, or what one, two, four or eight devices hold of it, is one of another or
# the rank.
SHAPES = {"wide": (48, 80), "tall": (112, 64), "stack": (2, 72, 104), "bias": (104,)}
LEAVES = tuple(SHAPES.items())
TWINS = {"one": (48, 80), "two": (48, 80)}  # alike but for their sharding
# n is a multiple of four and not of eight, so that some axes of m shard the r axis of moments: all
# eight devices on one mesh, four beside two on n, two beside four on n. Batches of three, for two
# and four are shares of this rank.
ODD_LEAVES, ODD_RANK = (("tall", (172, 48)), ("stack", (3, 56, 268))), 8
# Rules that are an exact SVD by definition: a factorisation of a sharded matrix gathers it.
FACTORISE = ("galore", "golore", "fira", "coap")
RANDOMIZED = {"svd": "randomized"}
VARIANTS = [(name, {}) for name in METHODS if name not in FACTORISE] + [
    *((name, RANDOMIZED) for name in ("galore", "golore", "fira")),
    ("grassjump", {"store_basis": False}),
    ("grassjump", {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}),
    ("frugal", {"projection": "random"}),
]
# Products of the gradient with something of the n side: their sums over shards of n are (m, r).
READ_THE_GRADIENT = {
    "grasswalk", "subtrack", "subtrack_grad", "ldadam", "online_subspace_descent", "sumo", *FACTORISE
}  # fmt: skip
# What the default suite compiles; the rest is marked long.
SHORT = {"4x2": ("grassjump", "grasswalk", "apollo"), "8": ("grassjump",), "2x4": ("grassjump",)}
SHORT_ODD = {"4x2": ("grassjump", "apollo"), "8": ("apollo",), "2x4": ()}


class Run(NamedTuple):
    """A compiled update and what it made of some gradients."""

    program: str
    expected: Any  # shardings of the state
    compiled: Any
    updates: list[Any]
    states: list[Any]


def mesh_of(name, kind=AxisType.Auto):
    shape, axes = MESHES[name]
    return jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))


def specs(mesh):
    """Megatron's on two axes, plain FSDP on one."""
    if mesh.axis_names == ("fsdp",):
        return {"wide": P("fsdp"), "tall": P(None, "fsdp"), "stack": P(None, "fsdp"), "bias": P(),
                "one": P("fsdp"), "two": P(None, "fsdp")}  # fmt: skip
    return {"wide": P("fsdp", "tensor"), "tall": P("tensor", "fsdp"), "stack": P(None, "fsdp", "tensor"),
            "bias": P("tensor"), "one": P("fsdp", "tensor"), "two": P("tensor", "fsdp")}  # fmt: skip


def params_like(shapes):
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


@functools.cache
def transformation(name, options, rank):
    # Its interval is the inverse of a step size, and a large step magnifies the rounding of sums.
    gap = 200 if name == "online_subspace_descent" else GAP
    return make(name, rank, gap, **dict(options))


def abstract(tree, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


@functools.cache
def on_one_device(name, options, leaves=LEAVES, rank=RANK):
    tx, params = transformation(name, options, rank), params_like(dict(leaves))
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    updates, states = [], []
    for t in range(STEPS):
        u, state = update(grads_like(params, t), state, params)
        updates.append(u)
        states.append(state)
    return updates, states


@functools.cache
def on_a_mesh(name, options, mesh_name, leaves=LEAVES, kind=AxisType.Auto, rank=RANK, steps=STEPS):
    """Only the sharding of the updates is asked for: that of the state is what the compiler makes
    of its inputs'.
    """
    tx, params, mesh = transformation(name, options, rank), params_like(dict(leaves)), mesh_of(mesh_name, kind)
    shardings = {leaf: NamedSharding(mesh, specs(mesh)[leaf]) for leaf in params}
    expected = state_shardings(tx, params, shardings)
    given, first = abstract(params, shardings), jax.jit(tx.init)(params)
    update = jax.jit(tx.update, out_shardings=(shardings, None))
    compiled = update.lower(given, abstract(first, expected), given).compile()
    state, params = jax.device_put((first, params), (expected, shardings))
    updates, states = [], []
    for t in range(steps):
        u, state = compiled(jax.device_put(grads_like(params_like(dict(leaves)), t), shardings), state, params)
        updates.append(u)
        states.append(state)
    return Run(compiled.as_text(), expected, compiled, updates, states)


def frozen(options):
    return tuple(sorted(options.items()))


def case(name, options, mesh, short=SHORT):
    options, is_long = frozen(options), bool(options) or name not in short[mesh]
    label = "-".join([name, *(str(value) for _, value in options), mesh])
    return pytest.param(name, options, mesh, id=label, marks=[pytest.mark.long] if is_long else [])


# --- the compiled update
# --------------------------------------------------------------------------------------------


def shares(size):
    return {size // k for k in (1, 2, 4, 8) if size % k == 0}


def legal(leaves, reads_the_gradient, rank):
    """Shapes, without ones and in any order of axes, that may be gathered, and that may be
    summed.
    """
    ranks = shares(rank)
    gathered, summed = {(), *((i,) for i in ranks), *((i, j) for i in ranks for j in ranks)}, set()
    for shape in leaves.values():
        if len(shape) < 2:
            gathered |= {(k,) for k in shares(shape[0])}
            continue
        m, n = sorted(shape[-2:])
        gathered |= {x for k in shares(n) for x in ((k,), *((i, k) for i in ranks))}
        summed |= {x for k in shares(m) for x in ((k,), *([(rank, k)] if reads_the_gradient else []))}
    batches = {shape[:-2] for shape in leaves.values()} | {()}

    def with_batches(shapes):
        return {tuple(sorted(k for k in (*x, *batch) if k > 1)) for x in shapes for batch in batches}

    return with_batches(gathered), with_batches(gathered | summed)


def assert_small_collectives(program, leaves, reads_the_gradient, rank=RANK):
    """No array of an m axis is gathered or exchanged: only sums of r x r, r x n and vectors, and
    gathers of r x n.

    A rule that multiplies the gradient by something of the n side sums (m, r) over the shards of n
    beside.
    """
    gathered, summed = legal(leaves, reads_the_gradient, rank)
    found = {(one.kind, tuple(n for n in one.shape if n != 1)) for one in collectives(program)}
    bad = {(kind, x) for kind, x in found if tuple(sorted(x)) not in (summed if "reduce" in kind else gathered)}
    assert found
    assert not bad


def assert_laws(name, run, leaves=SHAPES, rank=RANK):
    assert_small_collectives(run.program, leaves, name in READ_THE_GRADIENT, rank)
    states = jax.tree.leaves(run.compiled.output_shardings[1])
    assert states == jax.tree.leaves(run.expected)  # spelled alike, so that the next call finds its program


def assert_near(actual, expected):
    """Relative to the largest entry of each array."""
    for (path, b), a in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerances.SHARDED32 * max(np.max(np.abs(b)), 1e-30), err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize(
    ("name", "options", "mesh"), [case(name, options, mesh) for name, options in VARIANTS for mesh in MESHES]
)
def test_every_method_on_every_mesh(name, options, mesh):
    """Shardings and collectives of the compiled update, and its numbers beside those of one
    device.
    """
    run = on_a_mesh(name, options, mesh)
    assert_laws(name, run)
    updates, states = on_one_device(name, options)
    if "nu_dtype" not in dict(options):  # one that is rounded to the other neighbour is far from near
        assert_near(run.updates, updates)
        assert_near(run.states[-1], states[-1])


def odd_cases():
    return [case(name, options, mesh, SHORT_ODD) for name, options in VARIANTS for mesh in MESHES
            if METHODS[name].has_rank]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "mesh"), odd_cases())
def test_moments_that_are_sharded_along_the_rank(name, options, mesh):
    """The same laws where an axis of m does not divide n."""
    run = on_a_mesh(name, options, mesh, ODD_LEAVES, rank=ODD_RANK)
    arrays = zip(jax.tree.leaves(run.states[-1]), jax.tree.leaves(run.expected), strict=True)
    assert {sharding.spec[0] for x, sharding in arrays if x.shape == (ODD_RANK, 172)} == {"fsdp"}
    assert_laws(name, run, dict(ODD_LEAVES), ODD_RANK)
    updates, states = on_one_device(name, options, ODD_LEAVES, ODD_RANK)
    if "nu_dtype" not in dict(options):
        assert_near(run.updates, updates)
        assert_near(run.states[-1], states[-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [("apollo", {}), *(pytest.param(*x, marks=pytest.mark.long) for x in (
        ("frugal", {}), ("grassjump", {"store_basis": False}), ("grassjump", {})))],
)  # fmt: skip
def test_moments_along_the_rank_at_the_size_of_a_model(name, options):
    """What the compiler gathers depends on shapes: compiled alone, n of the 1b LLaMA and an m near
    its, a stack of one, for which it gathered the gradient when it was told about S^T in place of
    S^T G.
    """
    shape, rank, mesh = (1, 1944, 5461), 512, mesh_of("8")
    tx, params = transformation(name, frozen(options), rank), {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    shardings = {"w": NamedSharding(mesh, P(None, "fsdp"))}
    given, state = (abstract(x, s) for x, s in (
        (params, shardings), (jax.eval_shape(tx.init, params), state_shardings(tx, params, shardings))))  # fmt: skip
    update = jax.jit(tx.update, out_shardings=(shardings, None)).lower(given, state, given)
    assert_small_collectives(update.compile().as_text(), {"w": shape}, name in READ_THE_GRADIENT, rank)


# Programs with these loops are compiled and read, and one of several loops that send is not run:
# devices of a CPU begin the sums of independent loops each in an order of its own, and may wait for
# each other for ever (docs/guides/sharding.md).
MAPPED = {"map_stacks": True}


def test_stacks_one_matrix_after_the_other():
    """What each device has whole for a moment, S^T G and D, is that of one matrix of the stack and
    not of both.
    """
    leaves = (("stack", SHAPES["stack"]),)
    _, _, n = SHAPES["stack"]

    def sent(options):
        """What has the size of an S^T G and more, at every step."""
        program = on_a_mesh("grassjump", frozen(options), "8", leaves, steps=0).program
        found = [one for one in collectives(program) if not one.conditional and math.prod(one.shape) >= RANK * n]
        return {(one.kind, math.prod(one.shape), one.times) for one in found}

    assert sent({}) == {("all-reduce", 2 * RANK * n, 1), ("all-gather", 2 * RANK * n, 1)}
    assert sent(MAPPED) == {("all-reduce", RANK * n, 2), ("all-gather", RANK * n, 2)}


@pytest.mark.long
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["grassjump", "ldadam", "apollo"])
def test_laws_of_stacks_one_matrix_after_the_other(name, mesh):
    assert_laws(name, on_a_mesh(name, frozen(MAPPED), mesh, steps=0))
    assert_laws(
        name, on_a_mesh(name, frozen(MAPPED), mesh, ODD_LEAVES, rank=ODD_RANK, steps=0), dict(ODD_LEAVES), ODD_RANK
    )


@pytest.mark.parametrize("mesh", ["4x2"])
def test_numbers_of_stacks_one_matrix_after_the_other(mesh):
    """Of one stack whose residual is dropped: nothing is sent but in loops that wait for each
    other's results.
    """
    leaves, options = (("stack", SHAPES["stack"]),), frozen(RANDOMIZED | MAPPED)
    run = on_a_mesh("golore", options, mesh, leaves)
    assert any(one.times == 2 for one in collectives(run.program) if not one.conditional)
    updates, states = on_one_device("golore", options, leaves)
    assert_near(run.updates, updates)
    assert_near(run.states[-1], states[-1])


@pytest.mark.parametrize("name", ["grassjump", pytest.param("grasswalk", marks=pytest.mark.long)])
def test_alike_leaves_that_are_sharded_apart(name):
    """Leaves of a shape are not joined on a mesh: what is joined has one sharding, and one of the
    two was gathered.
    """
    leaves = tuple(TWINS.items())
    run = on_a_mesh(name, (), "4x2", leaves)
    assert_laws(name, run, TWINS)
    assert_near(run.updates, on_one_device(name, (), leaves)[0])


@pytest.mark.parametrize(
    ("name", "leaves", "rank"),
    [
        ("grassjump", LEAVES, RANK),
        pytest.param("grasswalk", LEAVES, RANK, marks=pytest.mark.long),
        pytest.param("grassjump", ODD_LEAVES, ODD_RANK, marks=pytest.mark.long),
        ("apollo", ODD_LEAVES, ODD_RANK),
    ],
)
def test_explicit_axes(name, leaves, rank):
    """The same program as with Auto axes, and no product that JAX refuses."""
    run = on_a_mesh(name, (), "4x2", leaves, AxisType.Explicit, rank)
    assert_laws(name, run, dict(leaves), rank)
    assert_near(run.updates, on_one_device(name, (), leaves, rank)[0])


@pytest.mark.parametrize("name", FACTORISE)
def test_exact_factorisations_are_exempt(name):
    """The exact SVD of a sharded matrix gathers it, and on a CPU before jaxlib 0.11 it is an error
    that says so.
    """
    if jax.__version_info__ < (0, 11):
        with pytest.raises(NotImplementedError, match="on a mesh of CPU devices hangs"):
            on_a_mesh(name, (), "4x2")
    else:
        tx, mesh = make(name, RANK, GAP), mesh_of("4x2")
        params = {"wide": jnp.zeros(SHAPES["wide"])}
        shardings = {"wide": NamedSharding(mesh, specs(mesh)["wide"])}
        state = abstract(jax.eval_shape(tx.init, params), state_shardings(tx, params, shardings))
        given = abstract(params, shardings)
        program = jax.jit(tx.update).lower(given, state, given).compile().as_text()
        with pytest.raises(AssertionError):
            assert_small_collectives(program, SHAPES, True)


# --- draws
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "leaves", "rank"),
    [*((mesh, LEAVES, RANK) for mesh in MESHES),
     *(pytest.param(mesh, ODD_LEAVES, ODD_RANK, marks=pytest.mark.long) for mesh in MESHES)],
)  # fmt: skip
def test_draws_are_those_of_one_device_to_the_bit(mesh, leaves, rank):
    """APOLLO's projections are a Gaussian over sqrt(r), the draw itself: of the key that a jump
    orthonormalises.
    """
    options = frozen({"store_basis": True})
    run, (_, states) = (
        on_a_mesh("apollo", options, mesh, leaves, rank=rank),
        on_one_device("apollo", options, leaves, rank),
    )
    for sharded, whole in zip(run.states, states, strict=True):
        jax.tree.map(np.testing.assert_array_equal, basis(sharded), basis(whole))


def test_bases_of_a_jump_are_those_draws_made_orthonormal():
    options = frozen({"store_basis": True})
    draws, bases = (basis(on_a_mesh(name, o, "4x2").states[-1]) for name, o in (("apollo", options), ("grassjump", ())))
    assert_near(bases, jax.tree.map(lambda x: grass_optax.grassmann.orthonormalize(jnp.asarray(np.asarray(x))), draws))


def basis(state):
    return optax.tree_utils.tree_get(state, "basis")


# --- a training step
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), [(24, RANK), (20, 8)])  # moments sharded along n, and along r
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_one_compilation_for_a_whole_training_step(kind, n, rank):
    """Loss, gradient, a chain around the method and new weights, all donated: compiled once, across
    refreshes.
    """
    mesh = mesh_of("8", kind)
    # Spelled as JAX spells its outputs: shorter on Auto axes, one entry for each axis on Explicit
    # ones.
    w, b = (P("fsdp"), P()) if kind == AxisType.Auto else (P("fsdp", None), P(None))
    shardings = {"w": NamedSharding(mesh, w), "b": NamedSharding(mesh, b)}
    params = jax.device_put({"w": jnp.zeros((16, n)), "b": jnp.zeros(n)}, shardings)
    tx = optax.chain(optax.clip_by_global_norm(1.0), grass_optax.grassjump(0.01, rank, GAP, weight_decay=0.1))
    inputs = jax.device_put(jnp.ones((32, 16)), NamedSharding(mesh, P("fsdp")))

    def loss(params, inputs):
        weights = jax.sharding.reshard(params["w"], P()) if kind == AxisType.Explicit else params["w"]
        return jnp.mean(jnp.square(inputs @ weights + params["b"][None] - 1))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, inputs):
        grads = jax.grad(loss)(params, inputs)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    expected = state_shardings(tx, params, shardings)
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init, out_shardings=expected)(params)
        before = loss(params, inputs)
        for _ in range(2 * GAP + 1):
            params, state = step(params, state, inputs)
        assert step._cache_size() == 1
        assert loss(params, inputs) < before
    assert [x.sharding for x in jax.tree.leaves(state)] == jax.tree.leaves(expected)


# --- bytes
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grassjump", "grasswalk", "subtrack", "apollo", "ldadam", "online_subspace_descent"])
def test_bytes_of_a_device(name):
    """At most 1.1 of an eighth of the state, where FSDP shards the axis that the bases are on."""
    mesh = mesh_of("8")
    shapes = {"q": (4, 64, 64), "gate": (4, 64, 176), "down": (4, 176, 64), "embed": (256, 64), "norm": (64,)}
    params = {leaf: jax.ShapeDtypeStruct(shape, jnp.float32) for leaf, shape in shapes.items()}
    by_leaf = {"q": P(None, "fsdp"), "gate": P(None, "fsdp"), "down": P(None, None, "fsdp"), "embed": P("fsdp"),
               "norm": P()}  # fmt: skip

    def stacks(params):
        return jax.tree.map(lambda x: MuonDimensionNumbers(1, 2) if x.ndim == 3 else None, params)

    tx = make(name, 16, GAP, weight_dimension_numbers=stacks)
    shardings = {leaf: NamedSharding(mesh, spec) for leaf, spec in by_leaf.items()}
    abstract_state = jax.eval_shape(tx.init, params)
    state = jax.device_put(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_state), state_shardings(tx, params, shardings)
    )
    arrays = jax.tree.leaves(state)
    held = [0] * 8
    for x in arrays:
        for shard in x.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    assert max(held) <= 1.1 * sum(x.nbytes for x in arrays) / 8


# --- states beside the split
# ----------------------------------------------------------------------------------------


def block_methods():
    yield "badam", grass_optax.scale_by_badam(GAP, weight_dimension_numbers=stacked_dimensions)
    yield "column_sgd", grass_optax.scale_by_column_sgd(weight_dimension_numbers=stacked_dimensions)
    yield "adafactor", optax.adafactor(0.1)


@pytest.mark.parametrize(("name", "tx"), list(block_methods()), ids=lambda x: x if isinstance(x, str) else "")
def test_states_beside_the_split(name, tx):
    mesh, params = mesh_of("4x2"), params_like(SHAPES)
    shardings = {leaf: NamedSharding(mesh, spec) for leaf, spec in specs(mesh).items() if leaf in params}
    expected = state_shardings(tx, params, shardings)
    assert math.prod(jax.tree.leaves(expected)[0].mesh.shape.values()) == 8
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, params = jax.device_put((tx.init(params), params), (expected, shardings))
        update = jax.jit(tx.update, out_shardings=(shardings, expected))
        alone, whole = jax.device_get((state, params))
        for t in range(3):
            grads = grads_like(params_like(SHAPES), t)
            updates, state = update(jax.device_put(grads, shardings), state, params)
            one, alone = tx.update(grads, alone, whole)
        assert update._cache_size() == 1
    assert_near(updates, one)
