"""What holds on every mesh: small collectives, known shardings, the numbers of one device."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grass_optax import state_shardings
from hlo.traffic import collectives
from tests.mesh.harness import (
    FACTORISE,
    GAP,
    LEAVES,
    MESHES,
    ODD_LEAVES,
    ODD_RANK,
    RANK,
    READ_THE_GRADIENT,
    SHAPES,
    TWINS,
    VARIANTS,
    abstract,
    assert_laws,
    assert_near,
    assert_numbers,
    assert_small_collectives,
    frozen,
    mesh_of,
    on_a_mesh,
    on_one_device,
    specs,
    transformation,
)
from tests.util import METHODS, long_but, make, of_each_kind

# What the default suite compiles; the rest is marked long.
SHORT = {"4x2": ("grassjump",), "8": ("grassjump",), "2x4": ()}
SHORT_ODD = {"4x2": ("apollo",), "8": (), "2x4": ()}


def case(name, options, mesh, short=SHORT):
    options, is_long = frozen(options), bool(options) or name not in short[mesh]
    label = "-".join([name, *(str(value) for _, value in options), mesh])
    return pytest.param(name, options, mesh, id=label, marks=[pytest.mark.long] if is_long else [])


@pytest.mark.parametrize(
    ("name", "options", "mesh"), [case(name, options, mesh) for name, options in VARIANTS for mesh in MESHES]
)
def test_every_method_keeps_its_shardings_and_numbers_on_every_mesh(name, options, mesh):
    """Shardings and collectives of the compiled update, and its numbers beside those of one
    device.
    """
    run = on_a_mesh(name, options, mesh)
    assert_laws(name, run)
    assert_numbers(run, name, options, mesh)


def odd_cases():
    blocks = [("grassjump", {"basis": "blocks", "blocks": 8, "store_basis": store}) for store in (True, False)]
    return [case(name, options, mesh, SHORT_ODD) for name, options in VARIANTS + blocks for mesh in MESHES
            if METHODS[name].has_rank]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "mesh"), odd_cases())
def test_the_laws_hold_where_moments_are_sharded_along_the_rank(name, options, mesh):
    """The same laws where an axis of m does not divide n."""
    run = on_a_mesh(name, options, mesh, ODD_LEAVES, rank=ODD_RANK)
    arrays = zip(jax.tree.leaves(run.states[-1]), jax.tree.leaves(run.expected), strict=True)
    assert {sharding.spec[0] for x, sharding in arrays if x.shape == (ODD_RANK, 172)} == {"fsdp"}
    assert_laws(name, run, dict(ODD_LEAVES), ODD_RANK)
    assert_numbers(run, name, options, mesh, ODD_LEAVES, ODD_RANK)


@pytest.mark.parametrize(
    ("name", "options"),
    [("apollo", {}), *(pytest.param(*x, marks=pytest.mark.long) for x in (
        ("frugal", {}), ("grassjump", {"store_basis": False}), ("grassjump", {})))],
)  # fmt: skip
def test_no_gradient_is_gathered_at_the_size_of_a_model(name, options):
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


@pytest.mark.parametrize("store", [True, pytest.param(False, marks=pytest.mark.long)])
def test_blocks_on_the_devices_of_their_rows_send_nothing_but_norms(store):
    """FSDP along m, as many blocks as devices: each projects, moves and lifts its own rows."""
    leaves, rank = (("wide", (48, 80)), ("stack", (2, 72, 104))), 16
    options = frozen({"basis": "blocks", "blocks": 8, "store_basis": store})
    run = on_a_mesh("grassjump", options, "8", leaves, rank=rank)
    assert_laws("grassjump", run, dict(leaves), rank)
    sizes = {math.prod(one.shape) for one in collectives(run.program)}
    # Column norms of the leaves, their sums, and numbers
    assert sizes <= {80, 2 * 104, 1, 2}
    assert any(one.kind == "all-reduce" for one in collectives(run.program))
    assert_numbers(run, "grassjump", options, "8", leaves, rank)


@pytest.mark.parametrize("name", ["grassjump", pytest.param("grasswalk", marks=pytest.mark.long)])
def test_alike_leaves_may_be_sharded_apart(name):
    """Leaves of a shape are not joined on a mesh: what is joined has one sharding, and one of the
    two was gathered.
    """
    leaves = tuple(TWINS.items())
    run = on_a_mesh(name, (), "4x2", leaves)
    assert_laws(name, run, TWINS)
    assert_near(run.updates, on_one_device(name, (), leaves)[0])


@pytest.mark.parametrize(
    ("name", "leaves", "rank"),
    long_but(
        [("apollo", ODD_LEAVES, ODD_RANK)],
        [
            ("grassjump", LEAVES, RANK),
            ("grasswalk", LEAVES, RANK),
            ("grassjump", ODD_LEAVES, ODD_RANK),
            ("apollo", ODD_LEAVES, ODD_RANK),
        ],
    ),
)
def test_explicit_axes_compile_to_the_program_of_auto_axes(name, leaves, rank):
    """The same program as with Auto axes, and no product that JAX refuses."""
    run = on_a_mesh(name, (), "4x2", leaves, AxisType.Explicit, rank)
    assert_laws(name, run, dict(leaves), rank)
    assert_near(run.updates, on_one_device(name, (), leaves, rank)[0])


@of_each_kind(("fira",), FACTORISE)
def test_an_exact_factorisation_gathers_its_matrix_or_is_an_error(name):
    """The exact SVD of a sharded matrix gathers it, and on a CPU before jaxlib 0.11 it is an error
    that says so.
    """
    if jax.__version_info__ < (0, 11):
        with pytest.raises(
            NotImplementedError,
            match=r"(?s)SVD of a matrix on a mesh of CPU devices hangs.*Use svd=.randomized. or a rule without",
        ):
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
