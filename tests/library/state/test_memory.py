"""The memory report against arrays that exist."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

import grass_optax
from tests.util import METHODS, STACK, TALL, WIDE, optimizer, stacked_dimensions

PARAMS = {"layer": {"w": jnp.ones(WIDE), "stack": jnp.ones(STACK), "b": jnp.ones(3)}, "w": jnp.ones(TALL)}
DIMS = {
    "layer": {"w": MuonDimensionNumbers(), "stack": MuonDimensionNumbers(1, 2), "b": None},
    "w": MuonDimensionNumbers(),
}


def nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("options", [{}, {"mu_dtype": jnp.bfloat16}])
@pytest.mark.parametrize("name", METHODS)
def test_bytes_are_those_of_the_arrays(name, options):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimizer(name, 3, weight_dimension_numbers=DIMS, **options))
    report = grass_optax.memory_report(tx, PARAMS)
    assert report.total_bytes == nbytes(tx.init(PARAMS))
    assert report.adam_bytes == nbytes(optax.adam(0.1).init(PARAMS))
    assert report.total_bytes == report.shared_bytes + sum(leaf.state_bytes for leaf in report.leaves)
    assert grass_optax.memory_report(tx, jax.eval_shape(lambda: PARAMS)) == report


def test_leaves_with_the_same_name_are_told_apart():
    report = grass_optax.memory_report(grass_optax.grassjump(0.1, rank=3, weight_dimension_numbers=DIMS), PARAMS)
    matrix = 4 * (6 * 3 + 2 * 3 * 16 + 2)
    expected = {"layer/b": 24, "layer/stack": 3 * matrix, "layer/w": matrix, "w": matrix}
    assert {leaf.path: leaf.state_bytes for leaf in report.leaves} == expected


@pytest.mark.parametrize("names", [(0, 1, 2), ("adam", "split", "count"), ("mu", "basis", "0")])
def test_names_that_occur_in_states_too_are_told_apart(names):
    """Lists, and keys that Optax's own containers have: each leaf gets what is its own."""
    leaves = (jnp.ones((8, 12)), jnp.ones(3), jnp.ones((12, 8)))
    params = list(leaves) if names[0] == 0 else dict(zip(names, leaves, strict=True))
    tx = optax.chain(optax.clip_by_global_norm(1.0), grass_optax.grassjump(0.1, rank=2))
    report = grass_optax.memory_report(tx, params)
    matrix = 4 * (8 * 2 + 2 * 2 * 12 + 2)
    expected = dict(zip(map(str, names), (matrix, 24, matrix), strict=True))
    assert {leaf.path: leaf.state_bytes for leaf in report.leaves} == expected
    assert all(leaf.adam_bytes in (24, 768) for leaf in report.leaves)


def test_leaves_of_an_nnx_state_have_the_paths_of_dicts():
    params = nnx.state(nnx.Linear(8, 12, rngs=nnx.Rngs(0)), nnx.Param)
    report = grass_optax.memory_report(grass_optax.grassjump(0.1, rank=2), params)
    assert {leaf.path: leaf.state_bytes for leaf in report.leaves} == {"bias": 96, "kernel": 4 * (16 + 48 + 2)}


def test_a_bare_array_is_its_own_leaf():
    report = grass_optax.memory_report(grass_optax.grassjump(0.1, rank=3), jnp.ones(WIDE))
    assert report.leaves[0].state_bytes >= 4 * (6 * 3 + 2 * 3 * 16 + 2)
    assert report.total_bytes == nbytes(grass_optax.grassjump(0.1, rank=3).init(jnp.ones(WIDE)))


def test_the_report_prints_a_line_for_each_leaf():
    table = str(grass_optax.memory_report(grass_optax.grassjump(0.1, rank=3, weight_dimension_numbers=DIMS), PARAMS))
    lines = table.splitlines()
    assert lines[0].split() == ["leaf", "shape", "state", "bytes", "Adam's", "ratio"]
    assert [line.split()[0] for line in lines[2:-3]] == ["layer/b", "layer/stack", "layer/w", "w"]
    assert lines[-1].split()[0] == "total"
    assert all(line == line.rstrip() for line in lines)


def test_the_report_says_how_many_blocks_each_basis_has():
    """Chosen or given, stored or not; without blocks there is no such column."""
    params = {"w": jax.ShapeDtypeStruct((512, 1376), jnp.float32), "bias": jax.ShapeDtypeStruct((9,), jnp.float32)}
    for options, blocks in (({}, 4), ({"blocks": 16}, 16), ({"store_basis": False}, 4)):
        tx = grass_optax.grassjump(0.1, rank=128, basis="blocks", **options)
        report = grass_optax.memory_report(tx, params)
        assert {leaf.path: leaf.blocks for leaf in report.leaves} == {"w": blocks, "bias": 1}
        line = next(line for line in str(report).splitlines() if line.startswith("w "))
        assert line.split()[-1] == str(blocks)


def test_the_report_of_abstract_params_allocates_nothing():
    """A 7B model's matrices are never allocated."""
    params = {"kernel": jax.ShapeDtypeStruct((32, 4096, 11008), jnp.bfloat16)}
    tx = grass_optax.grassjump(0.1, rank=1024, weight_dimension_numbers=MuonDimensionNumbers(1, 2))
    (leaf,) = grass_optax.memory_report(tx, params).leaves
    assert leaf.state_bytes == 32 * 4 * (4096 * 1024 + 2 * 1024 * 11008 + 2)
    assert leaf.adam_bytes == 32 * 2 * 2 * 4096 * 11008


# Numbers per matrix (m, n) at rank r, as the docstrings have them.
NUMBERS = {
    "grassjump": lambda m, n, r: m * r + 2 * n * r + 2,
    "grasswalk": lambda m, n, r: m * r + 2 * n * r + 2,
    "subtrack": lambda m, n, r: m * r + 2 * n * r + 2,
    "subtrack_grad": lambda m, n, r: m * r + 2 * n * r,
    "galore": lambda m, n, r: m * r + 2 * n * r,
    "fira": lambda m, n, r: m * r + 2 * n * r + 2,
    "apollo": lambda m, n, r: 2 * n * r + 2,
    "ldadam": lambda m, n, r: m * n + m * r + 2 * n * r,
    "online_subspace_descent": lambda m, n, r: 3 * m * r + 2 * n * r + 1,
    "alice": lambda m, n, r: m * r + 2 * n * r + r * r + n + 2,
    "coap": lambda m, n, r: m * r + 2 * n * r,
    "sumo": lambda m, n, r: m * r + n * r,
    "foam": lambda m, n, r: 2 * n * r,
    "gwt": lambda m, n, r: 2 * n * r + 2,
}
VARIANTS = [(name, {}, numbers) for name, numbers in NUMBERS.items()] + [
    ("golore", dict(random_start=5), NUMBERS["galore"]),
    ("foam", dict(second_moment="square_of_means"), NUMBERS["foam"]),
    ("alice", dict(b3=None), lambda m, n, r: m * r + 2 * n * r + n + 2),
    ("gwt", dict(max_norm_growth=None), NUMBERS["foam"]),
    ("grassjump", dict(store_basis=False), lambda m, n, r: 2 * n * r + 2),
    ("apollo", dict(store_basis=True), NUMBERS["grassjump"]),
    ("ldadam", dict(feedback=False), NUMBERS["galore"]),
    ("frugal", dict(projection="columns"), lambda m, n, r: 2 * n * r),
    ("frugal", dict(projection="random"), NUMBERS["galore"]),
    ("frugal", dict(projection="svd"), NUMBERS["galore"]),
]


@pytest.mark.parametrize(("name", "options", "numbers"), VARIANTS)
def test_the_state_of_each_method_has_the_size_of_its_formula(name, options, numbers):
    """Of a tall matrix as of its transpose; of a stack that many for each of its matrices."""
    tx = getattr(grass_optax, name)(0.1, rank=8, weight_dimension_numbers=stacked_dimensions, **options)
    shapes = {"tall": (60, 24), "stack": (3, 24, 60)}
    params = {k: jax.ShapeDtypeStruct(x, jnp.float32) for k, x in shapes.items()}
    report = grass_optax.memory_report(tx, params)
    wanted = {"tall": numbers(24, 60, 8), "stack": 3 * numbers(24, 60, 8)}
    assert {leaf.path: leaf.state_bytes for leaf in report.leaves} == {k: 4 * x for k, x in wanted.items()}


def test_the_state_of_apollo_mini_is_two_rows_and_a_norm():
    params = {"x": jax.ShapeDtypeStruct((24, 60), jnp.float32)}
    assert grass_optax.memory_report(grass_optax.apollo_mini(0.1), params).leaves[0].state_bytes == 4 * (2 * 60 + 2)
