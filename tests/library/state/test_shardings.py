"""Where `state_shardings` puts each array. What a step makes of it: tests/mesh."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import SplitState, state_shardings, subspaces
from tests.util import METHODS

MESH = AbstractMesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
LAST_TWO = MuonDimensionNumbers(-2, -1)


def specs(tx, shapes, param_specs, mesh=MESH, dtype=jnp.float32):
    """The specs of a state's arrays, without mesh."""
    params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
    shardings = {name: NamedSharding(mesh, spec) for name, spec in param_specs.items()}
    found = state_shardings(tx, params, shardings)
    state = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for x, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        sharding.shard_shape(x.shape)  # an error where a mesh axis does not divide
    return jax.tree.map(lambda s: s.spec, found)


def split_of(state):
    is_split = lambda x: isinstance(x, SplitState)  # noqa: E731
    return next(x for x in jax.tree.leaves(state, is_leaf=is_split) if is_split(x))


def jump(shape, spec, dims=LAST_TWO, rank=2, mesh=MESH):
    """(basis, moments) of one leaf."""
    tx = grass_optax.scale_by_grassjump(rank, weight_dimension_numbers=lambda p: jax.tree.map(lambda _: dims, p))
    split = split_of(specs(tx, {"w": shape}, {"w": spec}, mesh))
    assert split.inner_state.nu == split.inner_state.mu
    return split.basis["w"], split.inner_state.mu["w"]


@pytest.mark.parametrize(
    ("shape", "spec", "basis", "moments"),
    [
        ((16, 24), P("fsdp", "tensor"), P("fsdp"), P(None, ("tensor", "fsdp"))),
        ((24, 16), P("tensor", "fsdp"), P("fsdp"), P(None, ("tensor", "fsdp"))),  # the mirror image
        ((16, 16), P("fsdp", "tensor"), P("fsdp"), P(None, ("tensor", "fsdp"))),
        ((16, 24), P("fsdp"), P("fsdp"), P(None, "fsdp")),  # plain FSDP; shorter than the rank
        ((16, 24), P(None, "fsdp"), P(), P(None, "fsdp")),
        ((16, 24), P(("fsdp", "tensor")), P(("fsdp", "tensor")), P(None, ("fsdp", "tensor"))),
        ((16, 24), P(), P(), P()),
        ((16, 23), P("fsdp"), P("fsdp"), P()),  # neither 23 columns nor a rank of 2 on four devices
        ((16, 23), P("tensor"), P("tensor"), P("tensor")),  # the rank on two
        ((16, 23), P(("fsdp", "tensor")), P(("fsdp", "tensor")), P("tensor")),
        ((16, 18), P("fsdp", "tensor"), P("fsdp"), P(None, "tensor")),  # 18 on two, not on eight
        ((16, 18), P(("fsdp", "tensor")), P(("fsdp", "tensor")), P(None, "tensor")),
        ((16, 20), P("tensor", "fsdp"), P("tensor"), P("tensor", "fsdp")),  # one axis along r, one along n
        ((4, 16, 23), P("fsdp", "tensor"), P("fsdp", "tensor"), P("fsdp", "tensor")),  # (batch, m), (batch, r)
        ((4, 16, 24), P("tensor", "fsdp"), P("tensor", "fsdp"), P("tensor", None, "fsdp")),  # a batch axis keeps its
    ],
)
def test_bases_lie_as_the_side_m_and_moments_as_the_side_n(shape, spec, basis, moments):
    assert jump(shape, spec) == (basis, moments)


@pytest.mark.parametrize(
    ("shape", "spec", "options", "basis"),
    [
        ((16, 24), P("fsdp", "tensor"), {"basis": "blocks", "blocks": 4}, [P("fsdp")]),
        ((16, 24), P("fsdp", "tensor"), {"basis": "blocks", "blocks": 2}, [P()]),  # two on four devices
        ((16, 24), P(("tensor", "fsdp")), {"basis": "blocks", "blocks": 2}, [P("tensor")]),
        ((2, 16, 24), P("tensor", "fsdp"), {"basis": "blocks", "blocks": 4}, [P("tensor", "fsdp")]),
        ((16, 24), P("fsdp", "tensor"), {"basis": "columns"}, [P(), P("fsdp")]),  # rows, places
        ((2, 16, 24), P("tensor", "fsdp"), {"basis": "columns"}, [P("tensor"), P("tensor", "fsdp")]),
        ((16, 24), P("fsdp", "tensor"), {"basis": "cosine"}, [P(), P("fsdp")]),  # waves, signs
    ],
)
def test_bases_that_are_no_arrays_lie_as_their_rows(shape, spec, options, basis):
    numbers = lambda p: jax.tree.map(lambda _: LAST_TWO, p)  # noqa: E731
    tx = grass_optax.scale_by_grassjump(4, weight_dimension_numbers=numbers, **options)
    found = split_of(specs(tx, {"w": shape}, {"w": spec})).basis["w"]
    assert list(found) == basis


@pytest.mark.parametrize("store_basis", [True, False])
@pytest.mark.parametrize(
    ("shape", "spec", "blocks", "moments"),
    [
        ((16, 24), P("fsdp", "tensor"), 4, P("fsdp", "tensor")),
        ((24, 16), P("tensor", "fsdp"), 4, P("fsdp", "tensor")),
        ((16, 24), P("fsdp", "tensor"), 2, P(None, ("tensor", "fsdp"))),  # two blocks on four devices
        ((16, 24), P(("tensor", "fsdp")), 2, P("tensor", "fsdp")),
        ((16, 24), P(("fsdp", "tensor")), 2, P(None, ("fsdp", "tensor"))),  # a block is on devices 0 to 3
        ((2, 16, 24), P("tensor", "fsdp"), 4, P("tensor", "fsdp")),
        ((16, 24), P("fsdp", "tensor"), 1, P(None, ("tensor", "fsdp"))),  # a dense basis
    ],
)
def test_moments_of_blocks_lie_with_their_rows(shape, spec, blocks, moments, store_basis):
    numbers = lambda p: jax.tree.map(lambda _: LAST_TWO, p)  # noqa: E731
    options = {"basis": "blocks", "blocks": blocks, "store_basis": store_basis}
    tx = grass_optax.scale_by_grassjump(4, weight_dimension_numbers=numbers, **options)
    state = split_of(specs(tx, {"w": shape}, {"w": spec})).inner_state
    assert state.mu["w"] == state.nu["w"] == moments


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_a_mesh_axis_of_one_device_shards_nothing_twice(blocks):
    mesh = AbstractMesh((1, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tx = grass_optax.scale_by_grassjump(4, basis="blocks", blocks=blocks)
    found = split_of(specs(tx, {"w": (16, 24)}, {"w": P(("fsdp", "tensor"))}, mesh))
    axes = ("fsdp", "tensor")
    assert found.basis["w"].blocks == (P(None, axes) if blocks == 1 else P(axes))
    assert found.inner_state.mu["w"] == (P(None, axes) if blocks == 1 else P(axes))


def test_states_of_a_rule_of_blocks_lie_with_their_blocks():
    rule = subspaces.by_blocks(subspaces.online_descent(0.1), 4)
    tx = grass_optax.split_by_subspace(
        rule, optax.scale_by_adam(), grass_optax.transport.keep(), None, rank=8, update_proj_gap=2
    )
    found = split_of(specs(tx, {"w": (16, 24)}, {"w": P("fsdp", "tensor")}))
    state = found.rule_state["w"]
    assert (state.count, state.mu, state.nu) == (P("fsdp"),) * 3
    assert found.basis["w"].blocks == P("fsdp")


def test_other_arrays_inside_a_split_in_blocks_are_left_whole():
    """An inner state with three rows of n, which four devices do not divide."""

    def init(params):
        return jax.tree.map(lambda x: jnp.zeros((3, x.shape[-1])), params)

    inner = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    rule = subspaces.by_blocks(subspaces.random_jump(), 4)
    tx = grass_optax.split_by_subspace(rule, inner, grass_optax.transport.keep(), None, rank=8, update_proj_gap=2)
    assert split_of(specs(tx, {"w": (16, 24)}, {"w": P("fsdp", "tensor")})).inner_state["w"] == P(None, "tensor")


@pytest.mark.parametrize(
    ("rank", "n", "moments"),
    [
        (8, 23, P(("fsdp", "tensor"))),
        (8, 20, P("tensor", "fsdp")),
        (4, 23, P("fsdp")),
        (3, 23, P()),
        (8, 24, P(None, ("fsdp", "tensor"))),
    ],
)
def test_axes_that_do_not_divide_n_shard_the_rank(rank, n, moments):
    """All axes of m along r, some of them along n, those that divide r, none, and none where all
    divide n.
    """
    assert jump((16, n), P(("fsdp", "tensor")), rank=rank)[1] == moments


def test_orientation_is_read_from_the_state():
    """A square leaf whose output axis is its first."""
    assert jump((16, 16), P("fsdp"), MuonDimensionNumbers(-1, -2)) == (P(), P(None, "fsdp"))


@pytest.mark.parametrize(
    ("shape", "dims", "spec", "basis", "moments"),
    [
        ((16, 4, 8), MuonDimensionNumbers(0, (1, 2)), P("fsdp", "tensor"), P("fsdp"), P(None, ("tensor", "fsdp"))),
        ((16, 4, 8), MuonDimensionNumbers(0, (1, 2)), P("fsdp", None, "tensor"), P("fsdp"), P(None, "fsdp")),
        ((4, 4, 24), MuonDimensionNumbers((0, 1), 2), P("fsdp"), P("fsdp"), P(None, "fsdp")),
        ((4, 4, 24), MuonDimensionNumbers((0, 1), 2), P("fsdp", "tensor"), P(), P()),
        ((4, 4, 24), MuonDimensionNumbers((0, 1), 2), P(None, "tensor", "fsdp"), P(), P(None, "fsdp")),
    ],
)
def test_a_side_of_several_axes_keeps_the_mesh_axes_of_its_first(shape, dims, spec, basis, moments):
    assert jump(shape, spec, dims) == (basis, moments)


def test_explicit_axes_have_an_entry_for_each_axis():
    mesh = AbstractMesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    assert jump((16, 24), P("fsdp"), mesh=mesh) == (P("fsdp", None), P(None, "fsdp"))


SHAPES = {"w": (16, 24), "bias": (24,), "embed": (32, 16)}
SPECS = {"w": P("fsdp", "tensor"), "bias": P("tensor"), "embed": P("tensor", "fsdp")}


def by_path(state):
    return {
        jax.tree_util.keystr(path): spec
        for path, spec in jax.tree.leaves_with_path(state, is_leaf=lambda x: isinstance(x, P))
    }


def test_every_state_of_a_chain_has_its_place():
    tx = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), grass_optax.grassjump(1e-3, rank=2)), 2)
    state = specs(tx, SHAPES, SPECS)
    assert state.acc_grads == SPECS
    adam = {path: spec for path, spec in by_path(state).items() if "['adam']" in path}
    assert {spec for path, spec in adam.items() if path.endswith("['embed']")} == {SPECS["embed"]}
    assert {spec for path, spec in adam.items() if path.endswith("['bias']")} == {SPECS["bias"]}
    assert {spec for path, spec in by_path(state).items() if path.endswith("count")} == {P()}
    assert split_of(state).residual_state[1].norm["w"] == P()


def test_states_of_rules_and_residuals_lie_as_the_gradient_they_belong_to():
    descent = split_of(specs(grass_optax.scale_by_online_subspace_descent(rank=2), SHAPES, SPECS))
    assert (descent.rule_state["w"].count, descent.rule_state["w"].mu, descent.rule_state["w"].nu) == (
        P(),
        P("fsdp"),
        P("fsdp"),
    )
    ldadam = split_of(specs(grass_optax.scale_by_ldadam(rank=2), {"w": (24, 16)}, {"w": P("tensor", "fsdp")}))
    assert ldadam.residual_state.error["w"] == P("fsdp", "tensor")  # (m, n): the parameter turned


def test_moments_in_few_bits_lie_as_those_in_float32():
    tx = grass_optax.scale_by_grassjump(rank=2, mu_dtype="bfloat16", nu_dtype="float8_e4m3fn")
    state = specs(tx, SHAPES, SPECS)
    inner, columns = split_of(state).inner_state, P(None, ("tensor", "fsdp"))
    assert (inner.seed, inner.narrow.mu["w"], inner.narrow.nu["w"]) == (P(), columns, columns)
    assert inner.second_scale["w"] == columns
    scales = [spec for path, spec in by_path(state).items() if "second_scale['embed']" in path]
    assert scales == [P("tensor")]  # one for each row


def test_scales_are_whole_on_the_devices_that_share_the_rank():
    """(1, n): one for each column, whole on the devices that share the rank."""
    tx = grass_optax.scale_by_grassjump(rank=4, mu_dtype="float8_e4m3fn", nu_dtype="float8_e4m3fn")
    inner = split_of(specs(tx, {"w": (16, 18)}, {"w": P("fsdp", "tensor")})).inner_state
    assert (inner.narrow.mu["w"], inner.narrow.nu["w"]) == (P("fsdp", "tensor"), P("fsdp", "tensor"))
    assert (inner.first_scale["w"], inner.second_scale["w"]) == (P(None, "tensor"), P(None, "tensor"))


def llama(hidden, intermediate, layers, vocabulary=32000):
    """The parameters of a LLaMA, sharded along the hidden axis, and the axes of its matrices."""
    wide, out = (layers, hidden, intermediate), (layers, hidden, hidden)
    shapes = dict.fromkeys(("q", "k", "v", "o"), out) | {
        "gate": wide,
        "up": wide,
        "down": (layers, intermediate, hidden),
    }
    input_side, output_side = P(None, "fsdp"), P(None, None, "fsdp")
    by_leaf = {name: output_side if name in ("o", "down") else input_side for name in shapes}
    # A square matrix has its basis on the first of the axes that are named: for o that is its
    # output, too.
    dims = {name: MuonDimensionNumbers(2, 1) if name == "o" else MuonDimensionNumbers(1, 2) for name in shapes}
    others = {"embed": (vocabulary, hidden), "lm_head": (hidden, vocabulary), "norms": (2 * layers + 1, hidden)}
    shapes, dims = shapes | others, dims | dict.fromkeys(others)
    return shapes, by_leaf | {"embed": P(None, "fsdp"), "lm_head": P("fsdp"), "norms": P()}, dims


@pytest.mark.parametrize("name", ["grassjump", "grasswalk", "apollo", "online_subspace_descent"])
@pytest.mark.parametrize(("sizes", "rank", "devices"), [((2048, 5461, 24), 512, 8), ((4096, 11008, 32), 1024, 512)])
def test_a_device_holds_its_part_of_the_state_of_the_papers_models(name, sizes, rank, devices):
    """1b, whose 5461 = 43 * 127 no axis divides, and 7b, whose 11008 = 43 * 2^8 does not go on 512
    devices.
    """
    mesh = AbstractMesh((devices,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    shapes, by_leaf, dims = llama(*sizes)
    params = {leaf: jax.ShapeDtypeStruct(shape, jnp.float32) for leaf, shape in shapes.items()}
    tx = METHODS[name].scale_by(rank, weight_dimension_numbers=dims)
    shardings = state_shardings(tx, params, {leaf: NamedSharding(mesh, spec) for leaf, spec in by_leaf.items()})
    held = total = 0
    for x, sharding in zip(jax.tree.leaves(jax.eval_shape(tx.init, params)), jax.tree.leaves(shardings), strict=True):
        held += math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
        total += math.prod(x.shape) * x.dtype.itemsize
    assert held <= 1.1 * total / devices


def test_a_window_of_blocks_lies_as_one_block():
    stack, along = {"w": (4, 16, 24)}, {"w": P("fsdp", None, "tensor")}
    state = specs(grass_optax.scale_by_badam(5), stack, along)
    assert {spec for path, spec in by_path(state).items() if "mu" in path} == {P(None, None, "tensor")}
    blocks = {f"layers/{i}": {"w": jax.ShapeDtypeStruct((16, 24), jnp.float32)} for i in range(2)}
    tx = grass_optax.scale_by_badam(5, blocks=["layers/0", "layers/1"])
    sharding = NamedSharding(MESH, P("fsdp", "tensor"))  # a prefix of the tree
    found = jax.tree.map(lambda s: s.spec, state_shardings(tx, blocks, sharding))
    assert {spec for path, spec in by_path(found).items() if "mu" in path} == {P(None, "fsdp", "tensor")}


def test_arrays_that_are_not_known_are_replicated():
    factored = specs(optax.scale_by_factored_rms(min_dim_size_to_factor=8), SHAPES, SPECS)
    assert factored.v_row["w"] == P()
    dictionary = optax.GradientTransformation(lambda p: {"kept": (p, jnp.zeros(7))}, lambda u, s, p=None: (u, s))
    assert specs(dictionary, SHAPES, SPECS) == {"kept": (SPECS, P())}


def test_errors_say_what_to_do():
    params = {"w": jnp.ones((4, 8))}
    tx = grass_optax.grassjump(1e-3, rank=2)
    with pytest.raises(TypeError, match="'w' is SingleDeviceSharding.*Give a"):
        state_shardings(tx, params, SingleDeviceSharding(jax.devices()[0]))
    with pytest.raises(TypeError, match=r"names no mesh axes"):
        state_shardings(tx, params, {"w": P("fsdp")})
    with pytest.raises(ValueError, match="a tree like params or a prefix"):
        state_shardings(tx, params, {"other": NamedSharding(MESH, P())})
    with pytest.raises(ValueError, match="no leaves"):
        state_shardings(tx, {}, NamedSharding(MESH, P()))
