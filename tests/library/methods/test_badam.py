"""BAdam: weights against the float64 oracle, which leaves are in the blocks, bytes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from grass_optax import memory_report
from grass_optax.methods._badam import badam
from tests import tolerances
from tests.library.blocks.views import ADAM, CYCLE, PREFIXES, K, N, apart, gradients, stacked, together
from tests.oracles.block_coordinate import BlockOracle

RATE, DECAY, REST_RATE = 0.01, 0.02, 0.3
SHAPES = {"k": (N, 3, 5), "v": (N, 3), "embed": (2, 7, 3), "bias": (3,)}
OPTIONS = (
    dict(
        switch_gap=K,
        order="descending",
        adam_learning_rate=REST_RATE,
        mask=lambda params: jax.tree.map(decays, params),
    )
    | ADAM
)


def decays(x):
    """Under this mask "k" and "embed" decay, "v" and "bias" do not."""
    return x.shape[-1] == 5 or x.ndim > 2


def growing(size):
    """A schedule that no switch may begin anew."""
    return lambda t: size * jnp.asarray(1 + t, "float64")


def weights(tx, there, back):
    """Ours, after two cycles."""
    params = there({name: np.ones(shape) for name, shape in SHAPES.items()})
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(2 * CYCLE):
        updates, state = update(there(leaf_gradients(t)), state, params)
        params = jax.tree.map(np.add, params, jax.device_get(updates))
    return back(params)


def leaf_gradients(t):
    return gradients(t, "float64", {name: np.ones(shape) for name, shape in SHAPES.items()})


def block_weights(name):
    """The oracle's, of a leaf whose layers take turns, the last one first."""
    oracle, W = BlockOracle(**ADAM, switch_gap=K), np.ones(SHAPES[name])
    for t in range(2 * CYCLE):
        turn, growth = N - 1 - t // K % N, 1 + t
        W = oracle.weights(W, leaf_gradients(t)[name], [turn], RATE * growth, DECAY * growth if name == "k" else 0.0)
    return W


def adam_weights(name):
    """The oracle's, of a leaf outside the blocks: one block that is always active."""
    oracle, W = BlockOracle(**ADAM, switch_gap=10**9), np.ones((1, *SHAPES[name]))
    for t in range(2 * CYCLE):
        decay = DECAY * (1 + t) if name == "embed" else 0.0
        W = oracle.weights(W, leaf_gradients(t)[name][None], [0], REST_RATE, decay)
    return W[0]


def close(W, expected):
    np.testing.assert_allclose(W, expected, rtol=0, atol=tolerances.ORACLE64 * np.abs(expected).max())


def test_weights_along_an_axis_are_those_of_the_oracle():
    """Stacked matrices take turns; stacked vectors and all other leaves get Adam."""
    with jax.enable_x64(True):
        tx = badam(growing(RATE), weight_decay=growing(DECAY), **OPTIONS)
        ours = weights(tx, lambda x: x, lambda x: x)
    close(ours["k"], block_weights("k"))
    for name in ("v", "embed", "bias"):
        close(ours[name], adam_weights(name))


def test_weights_by_path_are_those_of_the_oracle_and_the_rest_is_frozen():
    def there(x):
        return {"embed": x["embed"], "bias": x["bias"]} | apart({"k": x["k"], "v": x["v"]})

    with jax.enable_x64(True):
        tx = badam(growing(RATE), weight_decay=growing(DECAY), blocks=PREFIXES, freeze_rest=True, **OPTIONS)
        ours = weights(tx, there, lambda params: params | together(params))
    for name in ("k", "v"):
        close(ours[name], block_weights(name))
    for name in ("embed", "bias"):
        np.testing.assert_array_equal(ours[name], 1)


def test_the_state_is_that_of_one_block_and_of_the_rest():
    """Of badam: two moments of one block and of the rest, and the counts; frozen, of the block
    alone.
    """
    block, rest, count = 3 * 5, 4 * 3 + 7 * 3, 4
    params = {"kernel": jnp.ones((N, 3, 5)), "norm": jnp.ones((N, 3)), "embed": jnp.ones((7, 3))}
    numbers = 2 * (block + rest)
    assert memory_report(badam(0.1), params).total_bytes == 4 * numbers + 4 * count
    frozen = badam(0.1, freeze_rest=True)
    assert memory_report(frozen, params).total_bytes == 4 * 2 * block + 3 * count
    named = badam(0.1, blocks=PREFIXES, freeze_rest=True)
    assert memory_report(named, apart(stacked())).total_bytes == 4 * 2 * (3 * 5 + 2) + 3 * count


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="Give one or the other"):
        badam(0.1, blocks=["a"], weight_dimension_numbers=MuonDimensionNumbers())
    with pytest.raises(TypeError, match="leaf 'n' .* is not floating point"):
        badam(0.1).init({"n": jnp.ones((2, 2, 2), jnp.int32)})
    params = {"k": jnp.ones((4, 2, 2))}
    tx = badam(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="requires the current value of parameters"):
        tx.update(params, tx.init(params))
    tx = optax.inject_hyperparams(badam, ("switch_gap", "key"))(0.1)
    with pytest.raises(ValueError, match="blocks is .*name it in static_args"):
        jax.jit(tx.update)(params, tx.init(params), params)
