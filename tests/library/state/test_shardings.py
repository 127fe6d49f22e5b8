"""Where `state_shardings` puts each array, and the laws of `eight_devices` in a process that has
them.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import SplitState, state_shardings
from tests.docs.test_readme import code_blocks
from tests.util import METHODS

ROOT = Path(__file__).parents[3]
MESH = AbstractMesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
LAST_TWO = MuonDimensionNumbers(-2, -1)
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}


def test_communication_of_an_update(tmp_path):
    """AdamW sends nothing; a split leaf sends less than its gradient, and on one device nothing."""
    path = tmp_path / "found.json"
    arguments = ["--size", "tiny", "--layers", "2", "--devices", "1", "8", "--methods", "adamw", "grassjump"]
    process = on_eight_devices("-m", "benchmarks.communication", *arguments, "--layouts", "fsdp", "--json", str(path))
    assert process.returncode == 0, process.stderr
    (table,) = json.loads(path.read_text())["tables"]
    sent = {(row["name"], row["devices"]): sum(row["every_step"].values()) for row in table["rows"]}
    assert (sent["adamw", 1], sent["adamw", 8], sent["grassjump", 1]) == (0, 0, 0)
    assert sent["grassjump", 8] > 0
    # By hand: m is sharded for q, k, v, gate, up and down, which sum r x n and the column norms of
    # G, and gather the direction and the factors of the columns; n is sharded for o, which needs
    # nothing but its norm.
    rank, columns = 32, 2 * (3 * 128 + 3 * 352)
    ring = 4 * columns * (2 * (rank + 1) + (rank + 1)) * 7 / 8
    assert sent["grassjump", 8] == pytest.approx(ring, rel=0.01)


def on_eight_devices(*arguments):
    environment = os.environ | EIGHT | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {EIGHT['XLA_FLAGS']}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1500)


def run_laws(*arguments):
    process = on_eight_devices(
        "-m", "pytest", "tests/mesh/eight_devices.py", "-q", "-p", "no:cacheprovider", *arguments
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert " passed" in process.stdout


# Apart, also because a process may have 65530 memory mappings, and each program that is compiled
# takes some hundreds.
PARTS = {"default": ("every_method", "not every_method"),
         "long": ("every_method", "along_the_rank", "not every_method and not along_the_rank")}  # fmt: skip


@pytest.mark.parametrize("part", PARTS["default"])
def test_laws_on_eight_devices(part):
    run_laws("-k", part)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS["long"])
def test_all_laws_on_eight_devices(part):
    run_laws("-m", "long", "-k", part)


def test_the_example_of_the_documentation():
    (example,) = code_blocks((ROOT / "docs" / "guides" / "sharding.md").read_text(), "python")
    process = on_eight_devices("-c", example)
    assert process.returncode == 0, process.stderr
    assert "('fsdp',)" in process.stdout


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
    assert split.inner.nu == split.inner.mu
    return split.basis["w"], split.inner.mu["w"]


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
def test_basis_and_moments(shape, spec, basis, moments):
    assert jump(shape, spec) == (basis, moments)


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
def test_sides_of_several_axes(shape, dims, spec, basis, moments):
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


def test_a_whole_chain():
    tx = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), grass_optax.grassjump(1e-3, rank=2)), 2)
    state = specs(tx, SHAPES, SPECS)
    assert state.acc_grads == SPECS
    adam = {path: spec for path, spec in by_path(state).items() if "['adam']" in path}
    assert {spec for path, spec in adam.items() if path.endswith("['embed']")} == {SPECS["embed"]}
    assert {spec for path, spec in adam.items() if path.endswith("['bias']")} == {SPECS["bias"]}
    assert {spec for path, spec in by_path(state).items() if path.endswith("count")} == {P()}
    assert split_of(state).residual[1].norm["w"] == P()


def test_states_of_rules_and_residuals():
    descent = split_of(specs(grass_optax.scale_by_online_subspace_descent(rank=2), SHAPES, SPECS))
    assert (descent.rule["w"].count, descent.rule["w"].mu, descent.rule["w"].nu) == (P(), P("fsdp"), P("fsdp"))
    ldadam = split_of(specs(grass_optax.scale_by_ldadam(rank=2), {"w": (24, 16)}, {"w": P("tensor", "fsdp")}))
    assert ldadam.residual.error["w"] == P("fsdp", "tensor")  # (m, n): the parameter turned


def test_moments_in_few_bits():
    tx = grass_optax.scale_by_grassjump(rank=2, mu_dtype="bfloat16", nu_dtype="float8_e4m3fn")
    state = specs(tx, SHAPES, SPECS)
    inner, columns = split_of(state).inner, P(None, ("tensor", "fsdp"))
    assert (inner.seed, inner.narrow.mu["w"], inner.narrow.nu["w"]) == (P(), columns, columns)
    assert inner.second_scale["w"] == columns
    scales = [spec for path, spec in by_path(state).items() if "second_scale['embed']" in path]
    assert scales == [P("tensor")]  # one for each row


def test_scales_have_no_rank():
    """(1, n): one for each column, whole on the devices that share the rank."""
    tx = grass_optax.scale_by_grassjump(rank=4, mu_dtype="float8_e4m3fn", nu_dtype="float8_e4m3fn")
    inner = split_of(specs(tx, {"w": (16, 18)}, {"w": P("fsdp", "tensor")})).inner
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
def test_bytes_of_a_device_for_the_models_of_the_papers(name, sizes, rank, devices):
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


def test_blocks():
    stack, along = {"w": (4, 16, 24)}, {"w": P("fsdp", None, "tensor")}
    state = specs(grass_optax.scale_by_badam(5), stack, along)
    assert {spec for path, spec in by_path(state).items() if "mu" in path} == {P(None, None, "tensor")}
    blocks = {f"layers/{i}": {"w": jax.ShapeDtypeStruct((16, 24), jnp.float32)} for i in range(2)}
    tx = grass_optax.scale_by_badam(5, blocks=["layers/0", "layers/1"])
    sharding = NamedSharding(MESH, P("fsdp", "tensor"))  # a prefix of the tree
    found = jax.tree.map(lambda s: s.spec, state_shardings(tx, blocks, sharding))
    assert {spec for path, spec in by_path(found).items() if "mu" in path} == {P(None, "fsdp", "tensor")}


def test_of_what_is_not_known():
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
