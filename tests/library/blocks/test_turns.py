"""Blocks in turn: against the float64 oracle, and what the state is, holds and survives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax._blocks.turns import block_coordinate
from grass_optax.methods._badam import badam
from tests import tolerances
from tests.library.blocks.views import ADAM, CYCLE, VIEWS, K, N, gradients, stacked
from tests.oracles.block_coordinate import BlockOracle


def updates_of(tx, there, back, steps, dtype="float32"):
    """Updates, as stacks; gradients are drawn as stacks."""
    params = there(stacked(dtype))
    state, update = tx.init(params), jax.jit(tx.update)
    updates = []
    for t in range(steps):
        u, state = update(there(gradients(t, dtype)), state, params)
        updates.append(back(jax.device_get(u)))
    return updates


def windows_of(updates, sign=False):
    """Which blocks are active at each step, read off the updates."""
    windows = []
    for t, u in enumerate(updates):
        G, U = gradients(t, u["k"].dtype)["k"], u["k"]
        untouched = np.sign(G) if sign else np.zeros_like(G)
        windows.append([i for i in range(N) if np.any(U[i] != untouched[i])])
    return windows


@pytest.mark.parametrize(
    ("view", "order", "active", "sign"),
    [
        ("axis 0", "ascending", 1, False),
        ("axis 0", "random", 2, True),
        ("axis 1", "descending", 1, True),
        ("paths", "random", 1, False),
        ("paths", "ascending", 2, True),
    ],
)
def test_weights_are_those_of_the_oracle(view, order, active, sign):
    """Two cycles of BAdam, or of FRUGAL's blocks with the sign; each block has its turn once a
    cycle.
    """
    blocks, there, back = VIEWS[view]
    with jax.enable_x64(True):
        tx = block_coordinate(
            optax.scale_by_adam(**ADAM), optax.scale_by_sign() if sign else None,
            switch_gap=K, blocks=blocks, active=active, order=order, key=3,
        )  # fmt: skip
        updates = updates_of(tx, there, back, 2 * CYCLE // active, "float64")
        windows = windows_of(updates, sign)
        assert all(windows[t] == windows[t - t % K] for t in range(len(windows)))
        turns = windows[::K]
        for cycle in (turns[: N // active], turns[N // active :]):
            assert sorted(i for turn in cycle for i in turn) == list(range(N))
            if order != "random":
                expected = list(range(N)) if order == "ascending" else list(range(N))[::-1]
                assert [i for turn in cycle for i in turn] == expected
        for name in ("k", "v"):
            oracle = BlockOracle(**ADAM, switch_gap=K, sign=sign)
            weights = expected = np.ones(stacked()[name].shape)
            for t, u in enumerate(updates):
                weights = weights - 0.1 * np.asarray(u[name])
                expected = expected - 0.1 * oracle.step(gradients(t, "float64")[name], windows[t])
                np.testing.assert_allclose(weights, expected, rtol=0, atol=tolerances.ORACLE64 * np.abs(expected).max())


def test_one_active_window_of_all_blocks_is_the_inner_optimizer_begun_anew():
    tx = block_coordinate(optax.scale_by_adam(), switch_gap=5, active=N, order="ascending")
    ours = updates_of(tx, *VIEWS["axis 0"][1:], 5)
    adam = updates_of(optax.scale_by_adam(), *VIEWS["axis 0"][1:], 5)
    chex.assert_trees_all_close(ours, adam, rtol=tolerances.SAME32)


@pytest.mark.parametrize("view", VIEWS)
def test_inner_sees_the_parameters_of_the_active_blocks(view):
    blocks, there, back = VIEWS[view]
    inner = optax.chain(optax.set_to_zero(), optax.add_decayed_weights(1.0))
    tx = block_coordinate(inner, switch_gap=1, blocks=blocks, order="descending")
    params = gradients(0, "bfloat16")
    updates, _ = jax.jit(tx.update)(there(params), tx.init(there(params)), there(params))
    updates = back(jax.device_get(updates))
    for name in params:
        assert not np.any(updates[name][:-1])
        np.testing.assert_array_equal(updates[name][-1], params[name][-1])


def test_random_order_is_a_function_of_the_key():
    def windows(key):
        tx = block_coordinate(optax.identity(), switch_gap=1, key=key)
        return windows_of(updates_of(tx, *VIEWS["axis 0"][1:], 6 * N))

    with jax.threefry_partitionable(True):
        base = windows(7)
        assert windows(jax.random.key(7, impl="threefry2x32")) == base
        assert windows(8) != base
    cycles = [base[i : i + N] for i in range(0, 6 * N, N)]
    assert any(cycle != cycles[0] for cycle in cycles)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("view", VIEWS)
def test_moments_are_those_of_the_active_blocks_in_float32(view, dtype):
    blocks, there, _ = VIEWS[view]
    params = there(stacked(dtype))
    tx = block_coordinate(optax.scale_by_adam(), optax.scale_by_sign(), switch_gap=K, blocks=blocks, active=2)
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    leaves = jax.tree.leaves((state.inner_state.mu, state.inner_state.nu))
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}
    numbers = sum(x.size for x in jax.tree.leaves(params)) // N
    assert sum(x.size for x in leaves) == 2 * 2 * numbers  # two active blocks, two moments


@pytest.mark.parametrize("view", ["axis 0", "paths"])
def test_a_masked_leaf_is_in_no_block(view):
    blocks, there, _ = VIEWS[view]
    params = there(stacked()) | {"other": jnp.ones(3)}
    tx = block_coordinate(optax.scale_by_adam(), switch_gap=2, blocks=blocks)
    masked = optax.masked(tx, jax.tree.map_with_path(lambda path, _: path[0].key != "other", params))
    updates, _ = jax.eval_shape(masked.update, params, jax.eval_shape(masked.init, params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@pytest.mark.parametrize("view", ["axis 0", "paths"])
def test_one_trace_and_no_custom_call(view):
    blocks, there, _ = VIEWS[view]
    tx, traces = badam(0.1, 2, blocks=blocks), []

    @jax.jit
    def update(grads, state, params):
        traces.append(1)
        return tx.update(grads, state, params)

    params = there(stacked())
    state = tx.init(params)
    for t in range(2 * N + 1):
        _, state = update(there(gradients(t)), state, params)
    assert len(traces) == 1
    assert "custom-call" not in update.lower(params, state, params).compile().as_text()


def test_blocks_by_path_are_not_stacked():
    """No buffer of the size of all gradients beside the updates."""
    side, count = 256, 8
    params = {str(i): jnp.ones((side, side)) for i in range(count)}
    tx = block_coordinate(optax.scale_by_adam(), switch_gap=K, blocks=[str(i) for i in range(count)])
    program = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * side * side * count


def test_a_switch_leaves_nothing_behind():
    """Not even a NaN: the moments after the first update of a turn are those of that update
    alone.
    """
    tx = block_coordinate(optax.scale_by_adam(), switch_gap=2, order="ascending")
    params, update = stacked(), jax.jit(tx.update)
    bad = jax.tree.map(lambda x: x * np.float32(np.nan), params)
    _, state = update(bad, tx.init(params))
    _, state = update(gradients(1), state)
    assert all(bool(jnp.all(jnp.isnan(x))) for x in jax.tree.leaves(state.inner_state.mu))
    grads = gradients(2)
    updates, state = update(grads, state)
    assert int(state.inner_state.count) == 1
    chex.assert_trees_all_close(
        state.inner_state.mu, jax.tree.map(lambda g: 0.1 * g[1:2], grads), rtol=tolerances.SAME32
    )
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize(
    ("options", "params", "message"),
    [
        (dict(order="shuffled"), {}, "order is 'shuffled'; it must be one of 'random', 'ascending', 'descending'"),
        (dict(switch_gap=0), {}, "switch_gap is 0; give 1 or more"),
        (dict(switch_gap=1.5), {}, "switch_gap is 1.5; it shapes the computation"),
        (dict(active=0), {}, "active is 0; give 1 or more"),
        (dict(active=3), {"k": (4, 2)}, "active is 3, but there are 4 blocks"),
        (dict(active=5), {"k": (4, 2)}, "active is 5, but there are 4 blocks"),
        (dict(key="a"), {}, "key is 'a'. Give an int"),
        (dict(blocks="layers"), {}, "blocks is 'layers'; give the axis"),
        (dict(blocks=1.5), {}, "blocks is 1.5; give the axis"),
        (dict(inactive=optax.trace(0.9)), {"k": (4, 2)}, "inactive has a state"),
        (dict(blocks=0), {"k": (4, 2), "v": (3, 2)}, "differ in size along axis 0.*'k': 4, 'v': 3"),
        (dict(blocks=2), {"k": (4, 2)}, r"leaf 'k' of shape \(4, 2\) has no axis 2"),
        (dict(blocks=["a", "b"]), {"a": (2,), "b": (3,)}, r"'a' holds .*\(2,\).*, 'b' holds .*\(3,\)"),
        (dict(blocks=["a", "b"]), {"a": (2,)}, "'b' holds {}"),
        (dict(blocks=["a"]), {"a": (2,), "ab": (2,)}, "leaf 'ab' must be in one block.*begins with none"),
        (dict(blocks=["a", "a"]), {"a": (2,)}, "leaf 'a' must be in one block"),
    ],
)
def test_errors_say_what_to_do(options, params, message):
    options = dict(switch_gap=2) | options
    params = {name: jnp.ones(shape) for name, shape in params.items()}
    with pytest.raises(ValueError, match=message):
        block_coordinate(optax.scale_by_adam(), **options).init(params)
