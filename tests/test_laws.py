"""What must hold for every method, whatever it does: algebra of the split, invariance, state and composition."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from grass_optax import grassmann, residual, split_by_subspace, subspaces, transport
from tests import tolerances
from tests.util import (
    ALIASES,
    METHODS,
    SQUARE,
    STACK,
    TALL,
    WIDE,
    basis_of,
    grads_like,
    injected,
    run,
    stacked_dimensions,
)  # fmt: skip

PARAMS = {"wide": jnp.ones(WIDE), "tall": jnp.ones(TALL), "stack": jnp.ones(STACK), "bias": jnp.ones(16)}
every_method = pytest.mark.parametrize("method", METHODS)


def make(method, rank=3, gap=4, **options):
    return METHODS[method](rank, gap, weight_dimension_numbers=stacked_dimensions, **options)


def assert_same(actual, expected, tolerance=tolerances.SAME32):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.max(jnp.abs(b))), 1e-30))


# --- the subspace ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("method", "options"), [("grassjump", {}), ("grasswalk", {}), ("grasswalk", {"walk_rank": 3})])
def test_bases_stay_orthonormal(method, options, dtype):
    params = jnp.ones((24, 40), dtype)
    tx = METHODS[method](rank=8, update_proj_gap=1, **options)

    @jax.jit
    def thousand(state):
        def step(state, t):
            grad = jax.random.normal(jax.random.fold_in(jax.random.key(1), t), params.shape).astype(dtype)
            return tx.update(grad, state, params)[1], None

        return jax.lax.scan(step, state, jnp.arange(1000))[0]

    basis = basis_of(thousand(tx.init(params)))
    assert basis.dtype == jnp.float32
    assert grassmann.orthonormality_error(basis) < tolerances.ORTHONORMAL32_AFTER_1000


RULES = {
    "jump": subspaces.random_jump(),
    "unit columns": subspaces.random_jump(orthonormal=False),
    "walk": subspaces.random_walk(),
    "range": subspaces.range_finder(),
}


@pytest.mark.parametrize("rule", ["jump", "range"])
def test_split_is_exact(rule):
    """S g + R = G and S^T R = 0, read off with trivial optimizers on the two sides."""
    params = PARAMS | {"bias": jnp.ones((2, 2))}
    options = dict(rank=2, update_proj_gap=2, weight_dimension_numbers=stacked_dimensions)
    rule = RULES[rule]
    whole = split_by_subspace(rule, optax.identity(), transport.keep, optax.identity(), **options)
    outside = split_by_subspace(rule, optax.set_to_zero(), transport.keep, optax.identity(), **options)
    wholes, residuals, states = run(whole, params, 4)[0], *run(outside, params, 4)
    for t in range(4):
        grads = grads_like(params, t)
        assert_same(wholes[t], grads)
        for name in ("wide", "stack"):  # the canonical orientation is the leaf's own
            inside = grassmann.project(states[t].basis[name], residuals[t][name])
            chex.assert_trees_all_close(inside, jnp.zeros_like(inside), atol=tolerances.OUTSIDE32)
            assert jnp.linalg.norm(residuals[t][name]) > 0.1 * jnp.linalg.norm(grads[name])


@pytest.mark.parametrize("basis_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("rule", RULES)
def test_per_column_form_is_the_dense_form(rule, basis_dtype):
    recovery = residual.recovery(1.01)
    forms = [
        split_by_subspace(
            RULES[rule], optax.scale_by_adam(), transport.rotate(0.9, 0.999), form, initial=RULES["range"],
            rank=3, update_proj_gap=3, weight_dimension_numbers=stacked_dimensions, basis_dtype=basis_dtype,
        )
        for form in (recovery, recovery._replace(per_column=False))
    ]  # fmt: skip
    params = {"wide": PARAMS["wide"], "stack": PARAMS["stack"]}
    per_column, dense = (run(tx, params, 8)[0] for tx in forms)
    assert_same(per_column, dense, tolerances.SAME32 if basis_dtype is None else tolerances.BF16_LIFT)


@pytest.mark.parametrize(
    ("rule", "initial"),
    [
        (subspaces.frozen(), subspaces.random_jump(orthonormal=False)),
        (subspaces.frozen(jnp.ones((6, 2)) / 2, orthonormal=False), None),
    ],
)
def test_per_column_form_knows_a_first_basis_that_is_not_orthonormal(rule, initial):
    forms = [
        split_by_subspace(rule, optax.scale_by_adam(), transport.keep, form, initial=initial, rank=2, update_proj_gap=3)
        for form in (residual.recovery(), residual.recovery()._replace(per_column=False))
    ]
    per_column, dense = (run(tx, PARAMS["wide"], 4)[0] for tx in forms)
    assert_same(per_column, dense)


def test_whole_space_is_adam():
    """r = m, S = I, scale 1: the split changes nothing."""
    frozen = subspaces.frozen(jnp.eye(6))
    tx = split_by_subspace(
        frozen, optax.scale_by_adam(), transport.rotate(0.9, 0.999), residual.recovery(), rank=6, update_proj_gap=3
    )
    assert_same(run(tx, PARAMS["wide"], 8)[0], run(optax.scale_by_adam(), PARAMS["wide"], 8)[0])


# --- invariance -----------------------------------------------------------------------------------------------------


@every_method
def test_transpose(method):
    """U(G^T) = U(G)^T with the dimension numbers swapped: orientation is no part of the method."""
    params = {"wide": jnp.zeros(WIDE), "tall": jnp.zeros(TALL), "square": jnp.zeros(SQUARE)}
    direct = METHODS[method](3, 4, weight_dimension_numbers=MuonDimensionNumbers(0, 1))
    swapped = METHODS[method](3, 4, weight_dimension_numbers=MuonDimensionNumbers(1, 0))
    updates, _ = run(direct, params, 9)
    state, update = swapped.init(transposed(params)), jax.jit(swapped.update)
    for t in range(9):
        u, state = update(transposed(grads_like(params, t)), state)
        assert_same(transposed(u), updates[t])


def transposed(tree):
    return jax.tree.map(jnp.transpose, tree)


@every_method
def test_multi_axis_kernels_are_their_matrices(method):
    """A DenseGeneral kernel (d, heads, h) is its (d, heads * h) matrix; a batch axis may stand anywhere."""
    flat = METHODS[method](2, 3, weight_dimension_numbers=MuonDimensionNumbers(0, 1))
    heads = METHODS[method](2, 3, weight_dimension_numbers=MuonDimensionNumbers(0, (1, 2)))
    updates = run(flat, jnp.zeros((5, 12)), 7)[0]
    state, update = heads.init(jnp.zeros((5, 3, 4))), jax.jit(heads.update)
    for t in range(7):
        u, state = update(grads_like(jnp.zeros((5, 12)), t).reshape(5, 3, 4), state)
        assert_same(u.reshape(5, 12), updates[t])
    assert basis_of(state).shape == (5, 2)
    middle = METHODS[method](2, 3, weight_dimension_numbers=MuonDimensionNumbers(0, 2))
    assert basis_of(middle.init(jnp.zeros((5, 3, 12)))).shape == (3, 5, 2)


def test_stacking():
    """U of a stack is the stack of the U, given the same bases."""
    params, gap = jnp.zeros(STACK), 3
    options = dict(rank=3, update_proj_gap=gap, weight_dimension_numbers=stacked_dimensions)
    axes = optax.scale_by_adam(), transport.rotate(0.9, 0.999), residual.recovery()
    stacked = split_by_subspace(subspaces.random_jump(), *axes, **options)
    updates, states = run(stacked, params, 8)
    for i in range(STACK[0]):
        bases = [states[t].basis[i] for t in range(0, 8, gap)]
        single = split_by_subspace(injected(bases, gap), *axes, **options)
        state, update = single.init(params[i]), jax.jit(single.update)
        for t in range(8):
            u, state = update(grads_like(params, t)[i], state)
            assert_same(u, updates[t][i])


@every_method
def test_neighbours(method):
    """Adding leaves, before or after, changes no other leaf."""
    alone = {"m": jnp.zeros(WIDE)}
    more = {"a": jnp.zeros(TALL), **alone, "z": jnp.zeros(STACK)}
    tx = make(method, gap=1)
    outcomes = []
    for params in (alone, more):
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(3):
            grads = jax.tree.map(jnp.ones_like, params) | grads_like(alone, t)
            updates, state = update(grads, state)
        outcomes.append((updates["m"], basis_of(state)["m"]))
    assert_same(*outcomes)


@every_method
def test_keys(method):
    def bases(key, params=PARAMS["wide"]):
        return np.asarray(basis_of(run(make(method, gap=1, key=key), params, 2)[1][-1]))

    with jax.threefry_partitionable(True):
        base = bases(7)
        np.testing.assert_array_equal(bases(jax.random.key(7, impl="threefry2x32")), base)
        np.testing.assert_array_equal(bases(jax.random.PRNGKey(7)), base)
        np.testing.assert_array_equal(bases(jnp.int32(7)), base)
        assert not np.array_equal(bases(8), base)


@every_method
def test_leaves_and_refreshes_draw_apart(method):
    params = {"a": jnp.ones(WIDE), "b": jnp.ones(WIDE)}
    tx = make(method, gap=1)
    states = [basis_of(s) for s in run(tx, params, 3)[1]]
    drawn = [np.asarray(s[name]) for s in states for name in params]
    assert all(not np.array_equal(drawn[i], drawn[j]) for i in range(6) for j in range(i))


# --- state and program ----------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("options", [{}, {"mu_dtype": "bfloat16"}, {"basis_dtype": "bfloat16"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_is_a_fixed_point_of_update(method, options, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    tx = make(method, gap=1, **options)
    state = jax.eval_shape(tx.init, params)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam mixes types under mu_dtype
        updates, after = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_structs(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert all(x.size > 0 for x in jax.tree.leaves(state))


@every_method
def test_one_trace_across_refreshes(method):
    tx, traces = make(method, gap=2), []

    @jax.jit
    def update(grads, state):
        traces.append(1)
        return tx.update(grads, state)

    state = tx.init(PARAMS)
    for t in range(6):
        _, state = update(grads_like(PARAMS, t), state)
    assert len(traces) == 1


def compiled(tx, params):
    return jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params).compile()


@pytest.mark.parametrize(
    ("method", "options"),
    [*((name, {}) for name in METHODS), ("grassjump", {"store_basis": False}), ("grassjump", {"orthonormal": False})],
)
def test_hot_path_is_matmul_only(method, options):
    """One conditional for the whole tree; no factorisation and no callback, which would be custom calls."""
    hlo = compiled(make(method, **options), PARAMS).as_text()
    assert hlo.count(" conditional(") == 1
    assert "custom-call" not in hlo


def test_hlo_shows_what_the_hot_path_is_free_of():
    """The words looked for above are those that a factorisation and a second conditional would leave."""

    def bad(x):
        r = jax.lax.cond(x[0, 0] > 0, lambda x: jnp.linalg.qr(x)[1], jnp.transpose, x)
        return jax.lax.cond(r[0, 0] > 0, lambda: r, lambda: x @ r)

    hlo = jax.jit(bad).lower(jnp.ones((4, 4))).compile().as_text()
    assert hlo.count(" conditional(") == 2
    assert "custom-call" in hlo


@every_method
def test_residual_is_never_written_out(method):
    """Beside the update itself, no buffer of the size of the gradient is alive at once."""
    params = jnp.ones((256, 2048))
    tx = METHODS[method](rank=8, weight_dimension_numbers=MuonDimensionNumbers(0, 1))
    size = params.size * 4
    assert compiled(tx, params).memory_analysis().temp_size_in_bytes < size
    dense = split_by_subspace(
        subspaces.random_jump(), optax.scale_by_adam(), transport.keep,
        residual.recovery()._replace(per_column=False), rank=8, update_proj_gap=2,
    )  # fmt: skip
    assert compiled(dense, params).memory_analysis().temp_size_in_bytes >= size  # the measure sees a residual


@every_method
def test_state_bytes(method):
    rank, state = 3, jax.eval_shape(make(method).init, PARAMS)
    split = optax.tree_utils.tree_get(state, "SplitState")
    for name, matrices in (("wide", 1), ("tall", 1), ("stack", 3)):
        m, n = sorted(PARAMS[name].shape[-2:])
        arrays = (split.basis[name], split.inner.mu[name], split.inner.nu[name])
        assert [x.shape[-2:] for x in arrays] == [(m, rank), (rank, n), (rank, n)]
        assert sum(x.size * x.dtype.itemsize for x in arrays) == 4 * matrices * (m * rank + 2 * rank * n)


# --- resumption and composition -------------------------------------------------------------------------------------


@every_method
def test_resumption_is_bit_exact(method):
    """State taken out as NumPy arrays at t = 5 and put back: the same updates to the bit, across the refreshes at 5
    and 9.
    """
    tx = make(method)
    updates, states = run(tx, PARAMS, 11)
    saved = jax.tree.map(lambda x: np.array(x), states[4])
    again, _ = run(tx, PARAMS, 6, state=jax.tree.map(jnp.asarray, saved), start=5)
    chex.assert_trees_all_equal(again, updates[5:])


@every_method
def test_composes_with_chain_and_jit_and_donation(method):
    tx = optax.chain(optax.clip_by_global_norm(1.0), ALIASES[method](0.1, rank=2, update_proj_gap=5))
    params = {"w": jnp.zeros(WIDE), "b": jnp.zeros(3)}
    target = grads_like(params, 0)

    @jax.jit
    def loss_of(p):
        return optax.tree.norm(optax.tree.sub(p, target))

    def step(params, state):
        updates, state = tx.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    start, state, step = loss_of(params), tx.init(params), jax.jit(step, donate_argnums=(0, 1))
    for _ in range(200):
        params, state = step(params, state)
    assert loss_of(params) < 0.1 * start


@every_method
def test_composes_with_partition_and_masked(method):
    """Under masks the split leaves see the same bases and get the same updates as alone."""
    params = {"w": jnp.ones(WIDE), "frozen": jnp.ones(WIDE), "b": jnp.ones(3)}
    alone = run(ALIASES[method](0.1, rank=2, update_proj_gap=2), params, 5)[0]
    mask = {"w": True, "frozen": False, "b": True}
    masked = run(optax.masked(ALIASES[method](0.1, rank=2, update_proj_gap=2), mask), params, 5)[0]
    labels = {"w": "a", "frozen": "b", "b": "a"}
    parts = {"a": ALIASES[method](0.1, rank=2, update_proj_gap=2), "b": optax.set_to_zero()}
    partitioned = run(optax.partition(parts, labels), params, 5)[0]
    for t in range(5):
        for name in ("w", "b"):
            assert_same(masked[t][name], alone[t][name])
            assert_same(partitioned[t][name], alone[t][name])
        assert not np.any(partitioned[t]["frozen"])
        chex.assert_trees_all_equal(masked[t]["frozen"], grads_like(params, t)["frozen"])


@every_method
def test_composes_with_multi_steps(method):
    """Two half batches are one batch."""
    params = {"w": jnp.ones(WIDE), "b": jnp.ones(3)}
    one = ALIASES[method](0.1, rank=2, update_proj_gap=2)
    many = optax.MultiSteps(one, every_k_schedule=2)
    expected, state, update = run(one, params, 4)[0], many.init(params), jax.jit(many.update)
    for t in range(4):
        grads = grads_like(params, t)
        with jax.numpy_dtype_promotion("standard"):  # Optax's accumulation mixes types
            nothing, state = update(grads, state, params)
            updates, state = update(grads, state, params)
        assert not any(np.any(x) for x in jax.tree.leaves(nothing))
        assert_same(updates, expected[t])


@every_method
def test_composes_with_inject_hyperparams(method):
    static = {"grassjump": (), "grasswalk": ("walk_rank",)}[method]
    options = dict(rank=2, update_proj_gap=2, weight_decay=0.1, max_norm_growth=1.01)
    injected = optax.inject_hyperparams(ALIASES[method], ("rank", "update_proj_gap", "key", *static))
    tx = injected(learning_rate=optax.linear_schedule(0.1, 0.2, 4), **options)
    params = {"w": jnp.ones(WIDE), "b": jnp.ones(3)}
    plain = ALIASES[method](optax.linear_schedule(0.1, 0.2, 4), **options)
    assert_same(run(tx, params, 5)[0], run(plain, params, 5)[0], tolerances.TRACED_B2)
    assert set(tx.init(params).hyperparams) >= {"scale", "b1", "b2", "eps", "max_norm_growth", "weight_decay"}


@every_method
@pytest.mark.parametrize("bad_step", [0, 3, 4])
def test_survives_non_finite_gradients(method, bad_step):
    """With apply_if_finite a NaN step, the first or a refresh included, leaves no trace but its place in time."""
    tx = optax.apply_if_finite(ALIASES[method](0.1, rank=2, update_proj_gap=4), max_consecutive_errors=3)
    params = {"w": jnp.ones(WIDE), "b": jnp.ones(3)}
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(8):
        grads = grads_like(params, t)
        if t == bad_step:
            grads["w"] = grads["w"].at[1, 2].set(jnp.nan)
        updates, state = update(grads, state, params)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((updates, state)))
        assert (jnp.linalg.norm(updates["w"]) > 0) == (t != bad_step)


@every_method
@pytest.mark.parametrize("bad_step", [0, 4])
def test_basis_survives_without_help(method, bad_step):
    """Without apply_if_finite moments may become NaN, the basis never does."""
    tx, params = make(method), jnp.ones(WIDE)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(6):
        grads = grads_like(params, t) * (jnp.nan if t == bad_step else 1.0)
        _, state = update(grads, state, params)
    assert grassmann.orthonormality_error(basis_of(state)) < tolerances.ORTHONORMAL32


@every_method
def test_zero_gradients_and_zero_columns(method):
    tx, params = make(method, gap=2), jnp.ones(WIDE)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(5):
        grads = jnp.zeros(WIDE) if t < 2 else grads_like(params, t).at[:, 3].set(0.0)
        updates, state = update(grads, state, params)
        assert jnp.all(jnp.isfinite(updates))
        assert jnp.all(updates[:, 3] == 0)
        assert (jnp.linalg.norm(updates) > 0) == (t >= 2)
    # A zero first gradient must not lock the recovered part: it is there, not at a norm growing by 1 % from nothing.
    outside = updates - grassmann.lift(basis_of(state), grassmann.project(basis_of(state), updates))
    assert jnp.linalg.norm(outside) > 0.1


@every_method
def test_one_element_leaves(method):
    params = {"scalar": jnp.ones(()), "one": jnp.ones(1), "row": jnp.ones((1, 1)), "w": jnp.ones(WIDE)}
    tx = METHODS[method](rank=1, update_proj_gap=2)
    updates, states = run(tx, params, 3)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((updates, states)))
    adam = run(optax.scale_by_adam(), params, 3)[0]
    for name in ("scalar", "one", "row"):  # no subspace of dimension 1 is smaller than these
        assert_same([u[name] for u in updates], [u[name] for u in adam])


# --- whatever Optax does with init
# -------------------------------------------------------------------------------------


@every_method
def test_init_takes_whatever_optax_gives_it(method):
    tx = ALIASES[method](0.1, rank=2)
    abstract = jax.eval_shape(lambda: PARAMS)
    for init in (jax.eval_shape(tx.init, PARAMS), jax.eval_shape(tx.init, abstract)):
        chex.assert_trees_all_equal_shapes_and_dtypes(init, jax.eval_shape(lambda: tx.init(PARAMS)))
    assert jax.tree.leaves(basis_of(tx.init({}))) == []
    updates, _ = tx.update({}, tx.init({}), {})
    assert updates == {}
    masked = {"w": jnp.ones(WIDE), "hidden": optax.MaskedNode()}
    updates, _ = tx.update(masked, tx.init(masked), masked)
    assert updates["hidden"] == optax.MaskedNode()
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)
    with_dims = ALIASES[method](0.1, rank=2, weight_dimension_numbers={"w": MuonDimensionNumbers()})
    state = with_dims.init({"w": jnp.ones(WIDE)})
    chex.assert_trees_all_equal(optax.tree.map_params(with_dims, lambda x: x, state), state)
