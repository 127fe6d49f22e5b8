"""A method on a mesh of eight devices and on one: programs, shardings, numbers, and their laws."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grass_optax import state_shardings
from grass_optax.methods._alice import usual_leading
from hlo.traffic import collectives
from tests import tolerances
from tests.util import METHODS, SPLIT, grads_like, make

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
FACTORISE = tuple(name for name in SPLIT if METHODS[name].has_svd)
RANDOMIZED = {"svd": "randomized"}
VARIANTS = [(name, {}) for name in SPLIT if name not in FACTORISE] + [
    *((name, RANDOMIZED) for name in ("galore", "golore", "fira")),
    ("grassjump", {"store_basis": False}),
    *(("grassjump", {"basis": basis}) for basis in ("blocks", "columns", "cosine")),
    ("grassjump", {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}),
    ("frugal", {"projection": "random"}),
]
# Every refresh makes a basis from the gradient. Singular vectors turn by a rounding over the
# distance of their values, so numbers are compared in float64.
FOLLOW_THE_GRADIENT = {"subtrack", "subtrack_grad", "ldadam", "online_subspace_descent", "sumo", "alice", *FACTORISE}
# Gwt divides by roots of sums of rows, some of which nearly cancel: numbers of 20,000 beside 1.
IN_FLOAT64 = FOLLOW_THE_GRADIENT | {"gwt"}
# Products of the gradient with something of the n side: their sums over shards of n are (m, r).
READ_THE_GRADIENT = FOLLOW_THE_GRADIENT | {"grasswalk"}


class Run(NamedTuple):
    """A compiled update and what it made of some gradients.

    The executable itself is not kept: it takes some hundreds of memory mappings.
    """

    program: str
    expected: Any  # shardings of the state
    found: Any  # those that the compiler gave it
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


def params_like(shapes, dtype="float32"):
    return {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}


@functools.cache
def transformation(name, options, rank):
    # Its interval is the inverse of a step size, and a large step magnifies the rounding of sums.
    gap = 200 if name == "online_subspace_descent" else GAP
    return make(name, rank, gap, **dict(options))


def abstract(tree, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


@functools.cache
def on_one_device(name, options, leaves=LEAVES, rank=RANK, dtype="float32"):
    tx, params = transformation(name, options, rank), params_like(dict(leaves), dtype)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    updates, states = [], []
    for t in range(STEPS):
        u, state = update(grads_like(params, t), state, params)
        updates.append(u)
        states.append(state)
    return updates, states


@functools.cache
def on_a_mesh(name, options, mesh_name, leaves=LEAVES, kind=AxisType.Auto, rank=RANK, steps=STEPS, dtype="float32"):
    """Only the sharding of the updates is asked for: that of the state is what the compiler makes
    of its inputs'.
    """
    tx, params, mesh = transformation(name, options, rank), params_like(dict(leaves), dtype), mesh_of(mesh_name, kind)
    shardings = {leaf: NamedSharding(mesh, specs(mesh)[leaf]) for leaf in params}
    expected = state_shardings(tx, params, shardings)
    given, first = abstract(params, shardings), jax.jit(tx.init)(params)
    update = jax.jit(tx.update, out_shardings=(shardings, None))
    compiled = update.lower(given, abstract(first, expected), given).compile()
    state, params = jax.device_put((first, params), (expected, shardings))
    updates, states = [], []
    for t in range(steps):
        u, state = compiled(jax.device_put(grads_like(params_like(dict(leaves), dtype), t), shardings), state, params)
        updates.append(u)
        states.append(state)
    return Run(compiled.as_text(), expected, compiled.output_shardings[1], updates, states)


def frozen(options):
    return tuple(sorted(options.items()))


def shares(size):
    return {size // k for k in (1, 2, 4, 8) if size % k == 0}


def legal(leaves, reads_the_gradient, rank, parts=()):
    """Shapes, without ones and in any order of axes, that may be gathered, and that may be
    summed.
    """
    ranks = shares(rank)
    gathered = {(), *((i,) for i in ranks), *((i, j) for i in ranks for j in ranks)}
    summed = set(itertools.product(parts, parts))
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


def assert_small_collectives(program, leaves, reads_the_gradient, rank=RANK, is_local=False, parts=()):
    """No array of an m axis is gathered or exchanged: only sums of r x r, r x n and vectors, and
    gathers of r x n.

    A rule that multiplies the gradient by something of the n side sums (m, r) over the shards of n
    beside. One that is local sends nothing. One whose bases have parts sums products of these.
    """
    gathered, summed = legal(leaves, reads_the_gradient, rank, parts)
    found = {(one.kind, tuple(n for n in one.shape if n != 1)) for one in collectives(program)}
    bad = {(kind, x) for kind, x in found if tuple(sorted(x)) not in (summed if "reduce" in kind else gathered)}
    assert bool(found) != is_local
    assert not bad


def assert_laws(name, run, leaves=SHAPES, rank=RANK):
    # A fold whose blocks each lie on one device; gwt has the norm of its limit.
    is_local = name == "foam" and rank % 8 == 0
    leading = usual_leading(rank)
    parts = (leading, rank - leading) if name == "alice" else ()
    assert_small_collectives(run.program, leaves, name in READ_THE_GRADIENT, rank, is_local, parts)
    assert jax.tree.leaves(run.found) == jax.tree.leaves(
        run.expected
    )  # spelled alike, so that the next call finds its program


def assert_numbers(run, name, options, mesh_name, leaves=LEAVES, rank=RANK):
    """Updates and the last state of a run are those of one device."""
    if "nu_dtype" in dict(options):
        return  # what is rounded to the other neighbour is far from near
    if name not in IN_FLOAT64:
        updates, states = on_one_device(name, options, leaves, rank)
        assert_near((run.updates, run.states[-1]), (updates, states[-1]))
        return
    with jax.enable_x64(True):
        updates, states = on_one_device(name, options, leaves, rank, "float64")
        run = on_a_mesh(name, options, mesh_name, leaves, rank=rank, dtype="float64")
        assert_near((run.updates, run.states[-1]), (updates, states[-1]), tolerances.ORACLE64)


def assert_near(actual, expected, tolerance=tolerances.SHARDED32):
    """Relative to the largest entry of each array."""
    for (path, b), a in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(np.max(np.abs(b)), 1e-30), err_msg=jax.tree_util.keystr(path)
        )
