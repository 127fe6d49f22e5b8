"""RACS and SinkGD against their float64 oracles, their laws, and what their states are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import memory_report
from tests import tolerances
from tests.oracles.block_coordinate import BlockOracle
from tests.oracles.row_column import RacsOracle, SinkgdOracle
from tests.util import grads_like, long_but

ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)
SHAPES = {"wide": (4, 6), "tall": (7, 3), "stack": (3, 5, 4), "heads": (4, 2, 3), "embed": (7, 4), "bias": (6,)}
DIMENSIONS = {
    "wide": MuonDimensionNumbers(0, 1), "tall": MuonDimensionNumbers(0, 1), "stack": MuonDimensionNumbers(-2, -1),
    "heads": MuonDimensionNumbers((0, 2), 1), "embed": None, "bias": None,
}  # fmt: skip
BOTH = pytest.mark.parametrize("name", ["racs", "sinkgd"])


def direction(name, **options):
    return getattr(grass_optax, f"scale_by_{name}")(**options)


def ones(dtype="float32"):
    return {name: np.ones(shape, dtype) for name, shape in SHAPES.items()}


def gradients(t, dtype="float32"):
    """From the sixth on 30 times as large, so that a limit on growth has something to do."""
    rng = np.random.default_rng(t)
    size = 30 if t > 4 else 1
    return {name: (size * (1 + rng.normal(size=shape))).astype(dtype) for name, shape in SHAPES.items()}


def matrices(name, x):
    """The leaf as a list of (outputs, inputs): the test's own words for what dimension numbers
    say.
    """
    if name == "stack":
        return [layer.T for layer in x]
    if name == "heads":
        return [np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)]
    return [x.T if x.ndim == 2 else x[:, None]]


@pytest.mark.parametrize(
    ("name", "dtype"),
    long_but(
        [("racs", "float64"), ("sinkgd", "float64")], itertools.product(("racs", "sinkgd"), ("float64", "float32"))
    ),
)
def test_directions_are_those_of_the_oracle(name, dtype):
    """Every kind of leaf in one tree, over ten steps; with a tree of dimension numbers."""
    options = {"racs": dict(beta=0.7, max_norm_growth=1.1), "sinkgd": dict(iterations=3)}[name]
    make = {
        "racs": lambda: RacsOracle(alpha=0.25, beta=0.7, gamma=1.1),
        "sinkgd": lambda: SinkgdOracle(alpha=0.25, iterations=3),
    }[name]
    oracles = {leaf: [make() for _ in range(3)] for leaf, dims in DIMENSIONS.items() if dims}
    adams = {leaf: BlockOracle(**ADAM, switch_gap=10**9) for leaf in ("embed", "bias")}
    tolerance = tolerances.ORACLE64 if dtype == "float64" else tolerances.ORACLE32
    with jax.enable_x64(dtype == "float64"):
        tx = direction(name, scale=0.25, weight_dimension_numbers=DIMENSIONS, **options, **ADAM)
        state, update = tx.init(ones(dtype)), jax.jit(tx.update)
        for t in range(10):
            grads = gradients(t, dtype)
            updates, state = update(grads, state)
            for leaf, U in jax.device_get(updates).items():
                if leaf in adams:
                    actual, expected = [U], [adams[leaf].step(grads[leaf][None], [0])[0]]
                else:
                    actual = matrices(leaf, U)
                    pairs = zip(oracles[leaf], matrices(leaf, grads[leaf]), strict=False)
                    expected = [oracle.step(G) for oracle, G in pairs]
                for a, b in zip(actual, expected, strict=True):
                    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_after_many_iterations_all_rows_and_columns_of_sinkgd_have_a_root_mean_square_of_one():
    """And then scaling rows or columns of the gradient changes nothing: what Sinkhorn's algorithm
    removes.
    """
    grad = grads_like(jnp.ones((5, 8)), 0)
    tx = direction("sinkgd", scale=1.0, iterations=30)
    update = jax.jit(lambda g: tx.update(g, tx.init(g))[0])
    updates = update(grad)
    for axis in (0, 1):
        np.testing.assert_allclose(jnp.mean(updates**2, axis), 1, rtol=tolerances.SAME32)
    rows, columns = np.ogrid[-2:3, -3:5]
    np.testing.assert_allclose(
        update(grad * np.float32(2.0) ** np.float32(rows + columns)), updates, atol=tolerances.SAME32 * 3
    )


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_sinkgd_does_not_see_the_size_of_a_gradient(size):
    grad = grads_like(jnp.ones((5, 8)), 0)
    tx = direction("sinkgd")
    update = jax.jit(tx.update)
    (updates, _), (scaled, _) = (update(x, tx.init(x)) for x in (grad, size * grad))
    np.testing.assert_allclose(scaled, updates, rtol=tolerances.SAME32)


def test_the_scales_of_racs_are_the_best_product_of_the_squares():
    """After many iterations, s q^T is the best approximation of rank 1 of the squared gradient."""
    grad = grads_like(jnp.ones((5, 8)), 0)
    tx = direction("racs", beta=0.0, iterations=10)
    _, state = jax.jit(tx.update)(grad, tx.init(grad))
    s, q = optax.tree_utils.tree_get(state, "inputs"), optax.tree_utils.tree_get(state, "outputs")
    left, values, right = np.linalg.svd(np.asarray(grad, np.float64) ** 2)
    assert (s.shape, q.shape) == ((5, 1), (1, 8))
    np.testing.assert_allclose(s * q, values[0] * np.outer(left[:, 0], right[0]), rtol=tolerances.ORACLE32)


def test_small_gradients_have_scales_although_their_fourth_powers_underflow():
    grad = 1e-14 * grads_like(jnp.ones((5, 8)), 0)
    tx = direction("racs", beta=0.0)
    update = jax.jit(tx.update)
    (updates, _), (small, _) = (update(x, tx.init(x)) for x in (1e14 * grad, grad))
    np.testing.assert_allclose(small, updates, rtol=tolerances.SAME32)


@BOTH
def test_zeros_stay_zero_and_spoil_nothing(name):
    """A row and a column without gradient, a gradient of 0, and a gradient after it."""
    grad = grads_like(jnp.ones((5, 8)), 0).at[1].set(0.0).at[:, 2].set(0.0)
    tx = direction(name, iterations=2)
    state, update = tx.init(grad), jax.jit(tx.update)
    for g in (jnp.zeros_like(grad), grad, jnp.zeros_like(grad), grad):
        updates, state = update(g, state)
        np.testing.assert_array_equal(updates == 0, g == 0)
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((updates, state)))


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_its_matrix_alone(name, bad):
    grad = jnp.asarray(gradients(0)["stack"]).at[1, 2, 3].set(bad)
    tx = direction(name, iterations=2, weight_dimension_numbers=DIMENSIONS["stack"])
    updates, _ = jax.jit(tx.update)(grad, tx.init(grad))
    assert not jnp.any(jnp.isfinite(updates[1]))
    assert jnp.all(jnp.isfinite(updates[::2]))


@BOTH
def test_narrow_leaves_are_computed_in_float32(name):
    """Only the result is rounded to bf16."""
    grads = grads_like(jnp.ones((16, 32), jnp.bfloat16), 0)
    tx = direction(name, iterations=2)
    update = jax.jit(tx.update)
    narrow, state = update(grads, tx.init(grads))
    wide, _ = update(grads.astype(jnp.float32), tx.init(grads.astype(jnp.float32)))
    assert narrow.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "numbers"), [("racs", lambda m, n: m + n + 2), ("sinkgd", lambda m, n: 0)])
def test_state_of_a_matrix(name, numbers, dtype):
    """And two moments of every other leaf."""
    report = memory_report(getattr(grass_optax, name)(0.1, weight_dimension_numbers=DIMENSIONS), ones(dtype))
    wanted = {"wide": numbers(4, 6), "tall": numbers(7, 3), "stack": 3 * numbers(5, 4), "heads": numbers(2, 12)}
    assert {leaf.path: leaf.state_bytes for leaf in report.leaves} == {
        **{leaf: 4 * count for leaf, count in wanted.items()}, "embed": 2 * 4 * 28, "bias": 2 * 4 * 6
    }  # fmt: skip
    free = {"max_norm_growth": None} if name == "racs" else {}
    (leaf,) = memory_report(getattr(grass_optax, name)(0.1, **free), {"w": np.ones((4, 6), dtype)}).leaves
    assert leaf.state_bytes == (4 * (4 + 6) if free else 0)
    halved = getattr(grass_optax, name)(0.1, weight_dimension_numbers=DIMENSIONS, mu_dtype="bfloat16")
    leaves = {leaf.path: leaf.state_bytes for leaf in memory_report(halved, ones(dtype)).leaves}
    assert leaves["embed"] == (2 + 4) * 28


def test_the_state_of_racs_lies_as_its_parameter():
    axes = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.sharding.AbstractMesh((2, 4), ("layers", "fsdp"), axis_types=axes)
    params = {"stack": jax.ShapeDtypeStruct((2, 16, 24), jnp.float32)}
    sharding = jax.sharding.NamedSharding(mesh, jax.P("layers", None, "fsdp"))
    tx = direction("racs", weight_dimension_numbers=MuonDimensionNumbers(1, 2))
    state = grass_optax.state_shardings(tx, params, sharding)
    specs = {name: optax.tree_utils.tree_get(state, name)["stack"].spec for name in ("inputs", "outputs", "norm")}
    assert specs == {"inputs": jax.P("layers"), "outputs": jax.P("layers", None, "fsdp"), "norm": jax.P("layers")}


@BOTH
def test_by_default_embeddings_heads_and_vectors_get_adam(name):
    names = ("dense", "wte", "lm_head", "norm")
    params = {leaf: np.ones((4, 6) if leaf != "norm" else 6, "float32") for leaf in names}
    moments = optax.tree_utils.tree_get(jax.eval_shape(direction(name).init, params), "nu")
    assert {leaf for leaf in names if jax.tree.leaves(moments[leaf])} == {"wte", "lm_head", "norm"}


@BOTH
def test_errors_say_what_to_do(name):
    with pytest.raises(ValueError, match="iterations is 0; give 1 or more"):
        direction(name, iterations=0)
    with pytest.raises(TypeError, match="leaf 'n' .* is not floating point"):
        direction(name).init({"n": np.ones((2, 2), "int32")})
    with pytest.raises(ValueError, match="weight_dimension_numbers must be a tree like params"):
        direction(name, weight_dimension_numbers={"w": MuonDimensionNumbers()}).init(ones())
