"""SCALE against its float64 oracle, its laws, and what the state is and survives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from grass_optax import memory_report
from grass_optax.methods._column_sgd import column_sgd, normalize_columns, scale_by_column_sgd
from models import CONFIGS, Llama
from tests import tolerances
from tests.oracles.block_coordinate import BlockOracle
from tests.oracles.column_sgd import ColumnOracle
from train.program.kernels import stacked_kernels

ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)
SHAPES = {
    "matrix": (4, 6), "stack": (3, 5, 4), "heads": (4, 2, 3), "norms": (3, 4), "embed": (7, 4), "lm_head": (4, 7),
    "bias": (6,),
}  # fmt: skip
DIMENSIONS = {
    "matrix": MuonDimensionNumbers(0, 1), "stack": MuonDimensionNumbers(-2, -1),
    "heads": MuonDimensionNumbers((0, 2), 1), "norms": None, "embed": None, "lm_head": None, "bias": None,
}  # fmt: skip


def ones(dtype="float32"):
    return {name: np.ones(shape, dtype) for name, shape in SHAPES.items()}


def gradients(t, dtype="float32"):
    rng = np.random.default_rng(t)
    return {name: (1 + rng.normal(size=shape)).astype(dtype) for name, shape in SHAPES.items()}


def matrices(name, x):
    """The leaf as a list of (inputs, outputs): the test's own words for what dimension numbers
    say.
    """
    if name == "stack":
        return list(x)
    if name == "heads":
        return [np.moveaxis(x, 1, 2).reshape(-1, x.shape[1])]
    return [x if x.ndim == 2 else x[:, None]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("unit_rms", [True, False])
def test_directions_are_those_of_the_oracle(unit_rms, dtype):
    """Every kind of leaf in one tree, over ten steps; with a tree of dimension numbers."""
    with jax.enable_x64(dtype == "float64"):
        tx = scale_by_column_sgd(
            scale=0.25, momentum=0.7, unit_rms=unit_rms, weight_dimension_numbers=DIMENSIONS, **ADAM
        )
        options = dict(eps=1e-6, rms=unit_rms)
        hidden = dict(scale=0.25, **options)
        kinds = {"matrix": hidden, "stack": hidden, "heads": hidden, "embed": options}
        kinds["lm_head"] = dict(momentum=0.7, **options)
        oracles = {name: [ColumnOracle(**kind) for _ in range(3)] for name, kind in kinds.items()}
        adams = {name: BlockOracle(**ADAM, switch_gap=10**9) for name in ("norms", "bias")}
        state, update = tx.init(ones(dtype)), jax.jit(tx.update)
        for t in range(10):
            grads = gradients(t, dtype)
            updates, state = update(grads, state)
            for name, U in jax.device_get(updates).items():
                if name in adams:
                    actual, expected = [U], [adams[name].step(grads[name][None], [0])[0]]
                else:
                    actual = matrices(name, U)
                    pairs = zip(oracles[name], matrices(name, grads[name]), strict=False)
                    expected = [oracle.step(G) for oracle, G in pairs]
                tolerance = tolerances.ORACLE64 if dtype == "float64" else tolerances.ORACLE32
                for a, b in zip(actual, expected, strict=True):
                    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("adam_learning_rate", [None, 0.5])
def test_every_leaf_decays_and_adams_leaves_have_their_own_rate(adam_learning_rate):
    """W <- W - rate (U + decay W): the scale is in U; Adam's leaves have their own rate."""
    direction = scale_by_column_sgd(scale=0.25, weight_dimension_numbers=DIMENSIONS)
    mask = {name: len(shape) > 1 for name, shape in SHAPES.items()}
    tx = column_sgd(
        optax.constant_schedule(0.1), scale=0.25, weight_decay=0.3, mask=mask,
        weight_dimension_numbers=DIMENSIONS, adam_learning_rate=adam_learning_rate,
    )  # fmt: skip
    params, grads = gradients(1), gradients(0)
    U = jax.device_get(jax.jit(direction.update)(grads, direction.init(params))[0])
    updates = jax.device_get(jax.jit(tx.update)(grads, tx.init(params), params)[0])
    for name, u in updates.items():
        rate = adam_learning_rate or 0.1 if name in ("norms", "bias") else 0.1
        decay = 0.3 * params[name] if name != "bias" else 0.0
        np.testing.assert_allclose(u, -rate * (U[name] + decay), rtol=0, atol=tolerances.SAME32 * np.abs(u).max())


def test_columns_have_a_root_mean_square_or_a_norm_of_one():
    """Axis by axis: what is normalised is the inputs of each output, for an embedding its
    tokens.
    """
    inputs = {"matrix": 0, "stack": 1, "heads": (0, 2), "embed": 0, "lm_head": 0}
    for unit_rms, reduced in ((True, lambda x, i: np.mean(x, i)), (False, lambda x, i: np.sum(x, i))):
        tx = scale_by_column_sgd(unit_rms=unit_rms, weight_dimension_numbers=DIMENSIONS)
        updates = jax.device_get(jax.jit(tx.update)(gradients(0), tx.init(ones()))[0])
        for name, axes in inputs.items():
            np.testing.assert_allclose(reduced(updates[name] ** 2, axes), 1, rtol=tolerances.SAME32)


def test_zero_columns_stay_zero_and_tiny_ones_are_divided_by_eps():
    """A zero column gives zero; one below eps is divided by eps; a head that has momentum moves on
    without gradient.
    """
    tx = scale_by_column_sgd(eps=1e-3)
    grads = {"m": np.ones((4, 3), np.float32) * np.float32([0, 1e-5, 7]), "lm_head": np.ones((4, 3), np.float32)}
    state, update = tx.init(grads), jax.jit(tx.update)
    updates, state = update(grads, state)
    np.testing.assert_allclose(updates["m"], np.ones((4, 3)) * [0, 1e-2, 1], rtol=tolerances.SAME32)
    updates, state = update(jax.tree.map(np.zeros_like, grads), state)
    assert not np.any(updates["m"])
    np.testing.assert_allclose(updates["lm_head"], 1, rtol=tolerances.SAME32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_is_the_heads_momentum_and_the_moments_of_vectors(dtype):
    params = ones(dtype)
    tx = column_sgd(0.1, weight_dimension_numbers=DIMENSIONS)
    numbers = 4 * 7 + 2 * (3 * 4 + 6)
    assert memory_report(tx, params).total_bytes == 4 * numbers + 2 * 4  # and a count for each of the two
    state = jax.tree.leaves(jax.eval_shape(tx.init, params))
    assert {x.dtype.name for x in state} == {"float32", "int32"}
    halved = column_sgd(0.1, weight_dimension_numbers=DIMENSIONS, mu_dtype="bfloat16")
    assert memory_report(halved, params).total_bytes == 2 * 4 * 7 + (2 + 4) * (3 * 4 + 6) + 2 * (4 + 4)  # and a seed


def test_norms_are_float32_under_bfloat16():
    """Only the result is rounded to bf16."""
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(64, 32)), jnp.bfloat16)
    tx = normalize_columns()
    narrow, _ = tx.update(grads, optax.EmptyState())
    wide, _ = tx.update(grads.astype(jnp.float32), optax.EmptyState())
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_a_llama_keeps_the_momentum_of_its_head_and_the_moments_of_its_norms():
    """Of the model, the head's momentum and Adam for the norms, with the dimension numbers of the
    trainer.
    """
    model = nnx.eval_shape(lambda: Llama(CONFIGS["tiny"], rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tx = column_sgd(0.1, weight_dimension_numbers=stacked_kernels)
    states = jax.eval_shape(tx.init, params)[0].inner_states
    leaves = {kind: jax.tree.leaves_with_path(state) for kind, state in states.items()}
    assert leaves["hidden"] == leaves["embedding"] == []
    (head,) = (x for _, x in leaves["head"] if x.ndim)
    assert head.shape == params["lm_head"]["kernel"].shape
    adam = [x.shape for _, x in leaves["adam"] if x.ndim]
    norms = [params["layers"][name]["scale"].shape for name in ("attention_norm", "mlp_norm")]
    assert sorted(adam) == sorted(2 * [*norms, params["norm"]["scale"].shape])
    updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


def test_by_default_leaves_with_two_axes_are_matrices():
    tx = scale_by_column_sgd()
    params = {"dense": np.ones((4, 6), "float32"), "vector": np.ones(6, "float32"), "wte": np.ones((7, 4), "float32")}
    states = tx.init(params).inner_states
    assert [x.shape for x in jax.tree.leaves(states["adam"]) if x.ndim] == [(6,), (6,)]
    assert not jax.tree.leaves((states["hidden"], states["embedding"]))


def test_errors_say_what_to_do():
    with pytest.raises(TypeError, match="leaf 'n' .* is not floating point"):
        column_sgd(0.1).init({"n": np.ones((2, 2), "int32")})
    with pytest.raises(ValueError, match="leaf 'b' .* is not a matrix.*optax.partition"):
        normalize_columns().update({"b": np.ones(3, "float32")}, optax.EmptyState())
    with pytest.raises(ValueError, match="weight_dimension_numbers must be a tree like params"):
        column_sgd(0.1, weight_dimension_numbers={"w": MuonDimensionNumbers()}).init(ones())
