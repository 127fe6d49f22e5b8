"""States on a mesh: draws, bytes, and one compilation for a whole training step."""

import functools
import math

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
from tests.mesh.harness import (
    GAP,
    LEAVES,
    MESHES,
    ODD_LEAVES,
    ODD_RANK,
    RANK,
    SHAPES,
    assert_near,
    frozen,
    mesh_of,
    on_a_mesh,
    on_one_device,
    params_like,
    specs,
)
from tests.util import METHODS, SPLIT, grads_like, long_but, make


@pytest.mark.parametrize(
    ("mesh", "leaves", "rank"),
    long_but(
        [("8", LEAVES, RANK)],
        [(mesh, *sizes) for sizes in ((LEAVES, RANK), (ODD_LEAVES, ODD_RANK)) for mesh in MESHES],
    ),
)
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


@pytest.mark.parametrize(
    ("kind", "n", "rank"),
    long_but(
        [(AxisType.Explicit, 24, RANK), (AxisType.Auto, 20, 8)],
        # Moments sharded along n, and along r.
        [(kind, *sizes) for kind in (AxisType.Auto, AxisType.Explicit) for sizes in ((24, RANK), (20, 8))],
    ),
)
def test_a_training_step_is_compiled_once_across_refreshes(kind, n, rank):
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


@pytest.mark.parametrize("name", ["grassjump", "grasswalk", "subtrack", "apollo", "ldadam", "online_subspace_descent"])
def test_a_device_holds_its_eighth_of_the_state(name):
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


BESIDE_THE_SPLIT = {name: make(name, RANK, GAP) for name in METHODS if name not in SPLIT}


@pytest.mark.parametrize("name", long_but(["column_sgd"], [*BESIDE_THE_SPLIT, "adafactor"]))
def test_a_state_beside_the_split_gives_the_updates_of_one_device(name):
    tx = BESIDE_THE_SPLIT.get(name, optax.adafactor(0.1))
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
