"""Blocks in turn: against the float64 oracle, and what the state is, holds and survives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from grass_optax import memory_report
from grass_optax._blocks.turns import block_coordinate
from grass_optax.methods._badam import badam, scale_by_badam
from tests import tolerances
from tests.oracles.block_coordinate import BlockOracle

N, K = 4, 3
CYCLE = N * K
PREFIXES = ["layers/0", "layers/1", "layers/2", "layers/10"]  # "layers/1" is not the beginning of "layers/10"
ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)


def stacked(dtype="float32"):
    """Four blocks along axis 0. NumPy, here and below: slicing a JAX array compiles."""
    return {"k": np.ones((N, 3, 5), dtype), "v": np.ones((N, 2), dtype)}


def gradients(t, dtype="float32", like=None):
    """Gradients of step t: Gaussians around a mean, so that both moments mean something."""
    rng = np.random.default_rng(t)
    return jax.tree.map(lambda x: (1 + rng.normal(size=x.shape)).astype(dtype), like or stacked())


def apart(tree):
    """The same blocks as subtrees."""
    return {"layers": {p.split("/")[1]: jax.tree.map(lambda x, i=i: x[i], tree) for i, p in enumerate(PREFIXES)}}


def together(tree):
    return jax.tree.map(lambda *x: np.stack(x), *(tree["layers"][p.split("/")[1]] for p in PREFIXES))


def moved(tree):
    """The same blocks along axis 1."""
    return jax.tree.map(lambda x: np.moveaxis(x, 0, 1), tree)


VIEWS = {"axis 0": (0, lambda x: x, lambda x: x), "axis 1": (1, moved, moved), "paths": (PREFIXES, apart, together)}


def updates_of(tx, there, back, steps, dtype="float32", start=0, state=None):
    """Updates, as stacks, and states; gradients are drawn as stacks."""
    params = there(stacked(dtype))
    state = tx.init(params) if state is None else state
    update = jax.jit(tx.update)
    outcomes = []
    for t in range(start, start + steps):
        u, state = update(there(gradients(t, dtype)), state, params)
        outcomes.append((back(jax.device_get(u)), state))
    return outcomes


def windows_of(updates, sign=False):
    """Which blocks are active at each step, read off the updates."""
    windows = []
    for t, u in enumerate(updates):
        G, U = gradients(t, u["k"].dtype)["k"], u["k"]
        untouched = np.sign(G) if sign else np.zeros_like(G)
        windows.append([i for i in range(N) if np.any(U[i] != untouched[i])])
    return windows


# --- against the oracle
# -----------------------------------------------------------------------------------------------


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
            switch_every=K, blocks=blocks, active=active, order=order, key=3,
        )  # fmt: skip
        updates = [u for u, _ in updates_of(tx, there, back, 2 * CYCLE // active, "float64")]
        windows = windows_of(updates, sign)
        assert all(windows[t] == windows[t - t % K] for t in range(len(windows)))
        turns = windows[::K]
        for cycle in (turns[: N // active], turns[N // active :]):
            assert sorted(i for turn in cycle for i in turn) == list(range(N))
            if order != "random":
                expected = list(range(N)) if order == "ascending" else list(range(N))[::-1]
                assert [i for turn in cycle for i in turn] == expected
        for name in ("k", "v"):
            oracle = BlockOracle(**ADAM, switch_every=K, sign=sign)
            weights = expected = np.ones(stacked()[name].shape)
            for t, u in enumerate(updates):
                weights = weights - 0.1 * np.asarray(u[name])
                expected = expected - 0.1 * oracle.step(gradients(t, "float64")[name], windows[t])
                np.testing.assert_allclose(weights, expected, rtol=0, atol=tolerances.ORACLE64 * np.abs(expected).max())


@pytest.mark.parametrize(("paths", "freeze_rest"), [(False, False), (True, True)])
def test_badam_weights_are_those_of_the_oracle(paths, freeze_rest):
    """Decay by a schedule that no switch begins anew, and under a mask; the leaves outside the
    blocks get Adam.
    """
    with jax.enable_x64(True):
        shapes = {"k": (N, 3, 5), "v": (N, 3), "embed": (2, 7, 3), "bias": (3,)}
        flat = {name: np.ones(shape) for name, shape in shapes.items()}

        def there(x):
            rest = {"embed": x["embed"], "bias": x["bias"]}
            return rest | (apart({"k": x["k"], "v": x["v"]}) if paths else {"k": x["k"], "v": x["v"]})

        params = there(flat)
        rate, decay = (lambda t, k=k: k * jnp.asarray(1 + t, "float64") for k in (0.01, 0.02))
        mask = jax.tree.map(lambda x: x.shape[-1] != 3 or x.ndim > 2, params)
        tx = badam(
            rate, K, blocks=PREFIXES if paths else 0, order="descending", freeze_rest=freeze_rest,
            adam_learning_rate=0.3, weight_decay=decay, mask=mask, **ADAM,
        )  # fmt: skip
        decayed, blocks = (
            ("k", "embed"),
            ("k", "v") if paths else ("k",),
        )  # vectors stacked along an axis are in no block
        oracles = {name: BlockOracle(**ADAM, switch_every=K if name in blocks else 10**9) for name in shapes}
        expected = {name: np.ones(shape) for name, shape in shapes.items()}
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(2 * CYCLE):
            grads = gradients(t, "float64", flat)
            updates, state = update(there(grads), state, params)
            params = jax.tree.map(np.add, params, jax.device_get(updates))
            for name, oracle in oracles.items():
                wd = float(decay(t)) if name in decayed else 0.0
                if name in blocks:
                    window = [N - 1 - t // K % N]
                    expected[name] = oracle.weights(expected[name], grads[name], window, float(rate(t)), wd)
                elif not freeze_rest:  # one block that is always active
                    (expected[name],) = oracle.weights(expected[name][None], grads[name][None], [0], 0.3, wd)
        ours = params | together(params) if paths else params
        for name, W in expected.items():
            np.testing.assert_allclose(ours[name], W, rtol=0, atol=tolerances.ORACLE64 * np.abs(W).max())


def test_one_active_window_of_all_blocks_is_the_inner_optimizer_begun_anew():
    tx = block_coordinate(optax.scale_by_adam(), switch_every=5, active=N, order="ascending")
    ours = [u for u, _ in updates_of(tx, *VIEWS["axis 0"][1:], 5)]
    adam = [u for u, _ in updates_of(optax.scale_by_adam(), *VIEWS["axis 0"][1:], 5)]
    chex.assert_trees_all_close(ours, adam, rtol=tolerances.SAME32)


@pytest.mark.parametrize("view", VIEWS)
def test_inner_sees_the_parameters_of_the_active_blocks(view):
    blocks, there, back = VIEWS[view]
    inner = optax.chain(optax.set_to_zero(), optax.add_decayed_weights(1.0))
    tx = block_coordinate(inner, switch_every=1, blocks=blocks, order="descending")
    params = gradients(0, "bfloat16")
    updates, _ = jax.jit(tx.update)(there(params), tx.init(there(params)), there(params))
    updates = back(jax.device_get(updates))
    for name in params:
        assert not np.any(updates[name][:-1])
        np.testing.assert_array_equal(updates[name][-1], params[name][-1])


def test_random_order_is_a_function_of_the_key():
    def windows(key):
        tx = block_coordinate(optax.identity(), switch_every=1, key=key)
        return windows_of([u for u, _ in updates_of(tx, *VIEWS["axis 0"][1:], 6 * N)])

    with jax.threefry_partitionable(True):
        base = windows(7)
        assert windows(jax.random.key(7, impl="threefry2x32")) == base
        assert windows(8) != base
    cycles = [base[i : i + N] for i in range(0, 6 * N, N)]
    assert any(cycle != cycles[0] for cycle in cycles)


# --- state and program
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("view", VIEWS)
def test_state_is_a_fixed_point_of_update_in_float32(view, dtype):
    blocks, there, _ = VIEWS[view]
    params = there(stacked(dtype))
    tx = block_coordinate(optax.scale_by_adam(), optax.scale_by_sign(), switch_every=K, blocks=blocks, active=2)
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_structs(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    leaves = jax.tree.leaves((state.inner.mu, state.inner.nu))
    assert all(x.dtype == jnp.float32 and x.size > 0 for x in leaves)
    numbers = sum(x.size for x in jax.tree.leaves(params)) // N
    assert sum(x.size for x in leaves) == 2 * 2 * numbers  # two active blocks, two moments


def test_state_bytes():
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
    tx = block_coordinate(optax.scale_by_adam(), switch_every=K, blocks=[str(i) for i in range(count)])
    program = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * side * side * count


def test_a_switch_leaves_nothing_behind():
    """Not even a NaN: the moments after the first update of a turn are those of that update
    alone.
    """
    tx = block_coordinate(optax.scale_by_adam(), switch_every=2, order="ascending")
    params, update = stacked(), jax.jit(tx.update)
    bad = jax.tree.map(lambda x: x * np.float32(np.nan), params)
    _, state = update(bad, tx.init(params))
    _, state = update(gradients(1), state)
    assert all(bool(jnp.all(jnp.isnan(x))) for x in jax.tree.leaves(state.inner.mu))
    grads = gradients(2)
    updates, state = update(grads, state)
    assert int(state.inner.count) == 1
    chex.assert_trees_all_close(state.inner.mu, jax.tree.map(lambda g: 0.1 * g[1:2], grads), rtol=tolerances.SAME32)
    chex.assert_tree_all_finite(updates)


# --- resumption and composition
# ---------------------------------------------------------------------------------------


def test_resumption_is_bit_exact():
    blocks, there, back = VIEWS["paths"]
    tx = badam(0.1, K, blocks=blocks, weight_decay=0.1)
    whole = updates_of(tx, there, back, 9)
    saved = jax.tree.map(lambda x: jnp.asarray(np.array(x)), whole[4][1])
    again = updates_of(tx, there, back, 4, start=5, state=saved)
    chex.assert_trees_all_equal([u for u, _ in again], [u for u, _ in whole[5:]])


def test_composes():
    """chain, inject_hyperparams with a schedule, apply_if_finite, jit and donation: the loss
    falls.
    """
    blocks, there, _ = VIEWS["paths"]
    injected = optax.inject_hyperparams(badam, ("switch_every", "blocks", "key"))
    inner = injected(optax.linear_schedule(0.1, 0.05, 300), switch_every=20, blocks=blocks, weight_decay=0.0)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.apply_if_finite(inner, 3))
    params = there(stacked())
    target = there(gradients(0))

    def step(params, state, poison):
        grads = jax.tree.map(lambda p, q: p - q + poison, params, target)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def loss(params):
        return float(optax.tree.norm(optax.tree.sub(params, target)))

    before, state, step = loss(params), tx.init(params), jax.jit(step, donate_argnums=(0, 1))
    for t in range(160):
        params, state = step(params, state, np.float32(np.nan if t == 40 else 0))
    assert loss(params) < 0.1 * before


def test_which_leaves_are_in_the_blocks():
    ones = jnp.ones
    params = {
        "layers": {"kernel": ones((N, 3, 5)), "norm": ones((N, 3))},
        "embed": {"table": ones((2, 7, 3))}, "lm_head": {"kernel": ones((3, 7))}, "dense": ones((5, 2, 2)),
    }  # fmt: skip
    dims = {"layers": {"kernel": MuonDimensionNumbers(1, 2), "norm": None}, "embed": None, "lm_head": None,
            "dense": MuonDimensionNumbers(0, (1, 2))}  # fmt: skip

    def shape_of_moments(**options):
        state = scale_by_badam(**options).init(params)
        return jax.tree.map(jnp.shape, optax.tree_utils.tree_get(state, "BlockCoordinateState").inner.mu)

    hidden = optax.MaskedNode()
    others = {"embed": {"table": hidden}, "lm_head": {"kernel": hidden}, "dense": hidden}
    chosen = {"layers": {"kernel": (1, 3, 5), "norm": hidden}, **others}
    assert shape_of_moments(weight_dimension_numbers=dims) == chosen
    assert shape_of_moments(weight_dimension_numbers=lambda _: dims) == chosen
    with pytest.raises(ValueError, match="differ in size along axis 0"):  # by default "dense" is taken for a stack of 5
        shape_of_moments()
    params["dense"] = ones((N, 2, 2))
    assert shape_of_moments() == chosen | {"dense": (1, 2, 2)}
    assert shape_of_moments(blocks=["layers"]) == {"kernel": (1, N, 3, 5), "norm": (1, N, 3)}


# --- init and errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["axis 0", "paths"])
def test_init_takes_whatever_optax_gives_it(view):
    blocks, there, _ = VIEWS[view]
    params = there(stacked())
    abstract = jax.eval_shape(lambda: params)
    tx, bare = badam(0.1, blocks=blocks), block_coordinate(optax.scale_by_adam(), switch_every=2, blocks=blocks)
    state = tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, abstract), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(bare.init(abstract), bare.init(params))
    raised = optax.tree.map_params(tx, lambda x: np.ones_like(x), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(raised, state)
    moments = optax.tree_utils.tree_get(raised, "BlockCoordinateState").inner.mu
    assert all(np.all(x == 1) for x in jax.tree.leaves(moments))
    for empty in ({}, {"a": optax.MaskedNode()}):
        updates, after = tx.update(empty, tx.init(empty), empty)
        assert updates == empty
        chex.assert_trees_all_equal_structs(after, tx.init(empty))
    more = params | {"other": jnp.ones(3)}
    masked = optax.masked(bare, jax.tree.map_with_path(lambda path, _: path[0].key != "other", more))
    updates, _ = jax.eval_shape(masked.update, more, jax.eval_shape(masked.init, more), more)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, more)


@pytest.mark.parametrize(
    ("options", "params", "message"),
    [
        (dict(order="shuffled"), {}, "order is 'shuffled'; it must be one of 'random', 'ascending', 'descending'"),
        (dict(switch_every=0), {}, "switch_every is 0; give 1 or more"),
        (dict(switch_every=1.5), {}, "switch_every is 1.5; it shapes the computation"),
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
    options = dict(switch_every=2) | options
    params = {name: jnp.ones(shape) for name, shape in params.items()}
    with pytest.raises(ValueError, match=message):
        block_coordinate(optax.scale_by_adam(), **options).init(params)


def test_errors_of_badam():
    with pytest.raises(ValueError, match="Give one or the other"):
        badam(0.1, blocks=["a"], weight_dimension_numbers=MuonDimensionNumbers())
    with pytest.raises(TypeError, match="leaf 'n' .* is not floating point"):
        badam(0.1).init({"n": jnp.ones((2, 2, 2), jnp.int32)})
    params = {"k": jnp.ones((4, 2, 2))}
    tx = badam(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="requires the current value of parameters"):
        tx.update(params, tx.init(params))
    tx = optax.inject_hyperparams(badam, ("switch_every", "key"))(0.1)
    with pytest.raises(ValueError, match="blocks is .*name it in static_args"):
        jax.jit(tx.update)(params, tx.init(params), params)
