"""The three axes on their own: each transport, each residual transformation, options of the
combinator.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import grassmann, residual, split_by_subspace, subspaces, transport
from tests import tolerances
from tests.util import STACK, WIDE, basis_of, grads_like, run, stacked_dimensions

KEY = jax.random.key(3)


def adam_state(count=7, shape=(4, 9)):
    mu = jax.random.normal(KEY, shape)
    return optax.ScaleByAdamState(
        jnp.int32(count), mu, 1.0 + jnp.square(jax.random.normal(KEY, shape)) + jnp.square(mu)
    )


def rotation(r=4):
    return grassmann.random_basis(jax.random.key(1), (r, r), jnp.float32)


@pytest.mark.parametrize("completion", ["none", "isotropic"])
def test_identity_rotates_nothing(completion):
    state = adam_state()
    after = transport.rotate(0.9, 0.99, completion)(state, jnp.eye(4))
    assert after.count == state.count
    np.testing.assert_allclose(after.mu, state.mu, rtol=1e-6)
    np.testing.assert_allclose(after.nu, state.nu, rtol=1e-5)


def test_rotation_goes_through_chains_and_leaves_other_states_alone():
    state = (adam_state(), optax.EmptyState(), optax.ScaleByScheduleState(jnp.int32(3)))
    after = transport.rotate(0.9, 0.99)(state, rotation())
    assert after[1:] == state[1:]
    np.testing.assert_allclose(after[0].mu, rotation() @ state[0].mu, atol=1e-6)


def test_rotation_of_an_unknown_state_is_an_error():
    state = optax.scale_by_rms().init(jnp.ones((4, 9)))
    with pytest.raises(TypeError, match=r"cannot rotate the inner state ScaleByRmsState.*transport.keep"):
        transport.rotate(0.9, 0.99)(state, rotation())


def test_full_rotation_keeps_a_multiple_of_identity():
    """A second moment that is the same in all directions is so in all bases; the mean turns as a
    vector.
    """
    mu = jnp.zeros((4, 9))
    state = optax.ScaleByAdamState(jnp.int32(5), mu, jnp.full((4, 9), 2.0))
    np.testing.assert_allclose(transport.rotate(0.9, 0.99)(state, rotation()).nu, 2.0, rtol=1e-5)


def test_isotropic_completion_restores_what_a_jump_leaves_behind():
    old, new = grassmann.random_basis(KEY, (2, 200, 50), jnp.float32)
    q = grassmann.rotation(new, old)
    state = optax.ScaleByAdamState(jnp.int32(50), jnp.zeros((50, 3)), jnp.ones((50, 3)))
    kept, completed = (transport.rotate(0.9, 0.99, c)(state, q).nu for c in ("none", "isotropic"))
    assert abs(float(kept.mean()) - 50 / 200) < 0.02  # r/m
    np.testing.assert_allclose(completed, 1, rtol=1e-5)


def test_simple_transports():
    state, q = adam_state(), rotation()
    assert transport.keep(state, q) is state
    assert all(not np.any(x) for x in jax.tree.leaves(transport.reset()(state, q)))
    after = transport.first_moment_only()(state, q)
    np.testing.assert_array_equal(after.nu, state.nu)
    np.testing.assert_allclose(after.mu, q @ state.mu, atol=1e-6)


def limited(norms, growth, shape=(2, 3)):
    """Frobenius norms that the limiter makes of a sequence of norms."""
    tx = residual.norm_growth_limit(growth)
    unit = jnp.ones(shape) / jnp.sqrt(6.0)
    state, out = tx.init(unit), []
    for norm in norms:
        update, state = tx.update(norm * unit, state)
        out.append(float(jnp.linalg.norm(update)))
    return out


@pytest.mark.parametrize(
    ("norms", "growth", "expected"),
    [
        ([1, 5, 5, 5], 1.1, [1, 1.1, 1.21, 1.331]),
        ([1, 0.5, 5], 1.1, [1, 0.5, 0.55]),  # compared with the norm after limiting
        ([0, 0, 3, 9], 1.1, [0, 0, 3, 3.3]),  # zero is not a norm to grow from
        ([1, 2, 4], 0.1, [1, 0.1, 0.01]),
        ([1, 5, 500], float("inf"), [1, 5, 500]),
    ],
)
def test_norm_growth_limit(norms, growth, expected):
    np.testing.assert_allclose(limited(norms, growth), expected, rtol=1e-5)


def test_recovery_factor_of_a_column_without_gradient_is_zero():
    """Momentum may move it (N != 0), but a factor of N / 0 must not."""
    projected = jnp.ones((4, 5)).at[:, 2].set(0).at[:, 3].set(1e-9)
    factors = residual.recovery_factors(projected, jnp.full((4, 5), 3.0))
    np.testing.assert_allclose(factors[0], [3, 3, 0, 0, 3])
    np.testing.assert_allclose(
        residual.recovery_factors(1e-12 * projected, jnp.full((4, 5), 3e-12))[0], [3, 3, 0, 0, 3], rtol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"orthonormal": False}, {"basis_dtype": "bfloat16"}])
def test_basis_drawn_again_is_the_basis_stored(options):
    params = {"w": jnp.ones(WIDE), "s": jnp.ones(STACK)}

    def make(store):
        dims = stacked_dimensions
        return grass_optax.scale_by_grassjump(3, 3, store_basis=store, weight_dimension_numbers=dims, **options)

    stored, drawn = (run(make(store), params, 8) for store in (True, False))
    for t in range(8):
        for name in params:
            np.testing.assert_allclose(
                drawn[0][t][name], stored[0][t][name], atol=1e-4 if "basis_dtype" in options else 1e-5
            )
    assert jax.tree.leaves(basis_of(drawn[1][-1])) == []
    split = optax.tree_utils.tree_get(drawn[1][-1], "SplitState")
    sizes = {
        name: split.inner.mu[name].size + split.inner.nu[name].size + split.residual[1].norm[name].size
        for name in params
    }
    assert sizes == {"w": 2 * 3 * 16 + 1, "s": 3 * (2 * 3 * 16 + 1)}


def test_without_orthonormal_bases_nothing_is_inverted():
    """One step by hand: g = S^T G and S N literally; the recovered part is that of G - S g."""
    grad = grads_like(jnp.ones(WIDE), 0)
    tx = grass_optax.scale_by_grassjump(3, orthonormal=False, max_norm_growth=None)
    with jax.enable_x64(True):
        grad = grad.astype(jnp.float64)
        update, state = tx.update(grad, tx.init(grad))
    basis = np.asarray(basis_of(state))
    assert np.abs(basis.T @ basis - np.eye(3)).max() > 0.05
    g = basis.T @ np.asarray(grad)
    phi = np.linalg.norm(np.sign(g), axis=0) / np.linalg.norm(g, axis=0)  # Adam's first step is the sign
    expected = 0.25 * basis @ np.sign(g) + phi * (np.asarray(grad) - basis @ g)
    np.testing.assert_allclose(update, expected, atol=1e-6)  # eps of Adam, 1e-8, over |g|


def test_bf16_basis_keeps_its_subspace():
    """1000 walks, each rounded to bf16: the drift stays what the format costs."""
    tx = grass_optax.scale_by_grasswalk(4, 1, basis_dtype="bfloat16")

    @jax.jit
    def thousand(state):
        grad = jnp.ones((16, 20))
        return jax.lax.scan(lambda s, _: (tx.update(grad, s)[1], None), state, length=1000)[0]

    basis = basis_of(thousand(tx.init(jnp.ones((16, 20)))))
    assert basis.dtype == jnp.bfloat16
    error = grassmann.orthonormality_error(basis.astype(jnp.float32))
    assert tolerances.ORTHONORMAL32 < error < tolerances.ORTHONORMAL_BF16_AFTER_1000


def test_residual_may_be_dropped_or_any_transformation():
    params = jnp.ones(WIDE)
    axes = subspaces.random_jump(), optax.scale_by_adam(), transport.reset()
    dropped = split_by_subspace(*axes, None, rank=3, update_proj_gap=2)
    signed = split_by_subspace(*axes, optax.scale_by_sign(), rank=3, update_proj_gap=2)
    (low, low_states), (both, both_states) = run(dropped, params, 4), run(signed, params, 4)
    for t in range(4):
        basis, grad = np.asarray(both_states[t].basis), np.asarray(grads_like(params, t))
        np.testing.assert_array_equal(basis, low_states[t].basis)
        outside = grad - basis @ (basis.T @ grad)
        np.testing.assert_allclose(both[t] - low[t], np.sign(outside), atol=1e-5)
        assert np.linalg.matrix_rank(np.asarray(low[t]), tol=1e-4) == 3


def test_without_lift_the_residual_gets_the_gradient():
    params, scale = jnp.ones(WIDE), residual.recovery(None)
    axes = subspaces.random_jump(), optax.scale_by_adam(), transport.keep()
    options = dict(rank=3, update_proj_gap=2, lift=False)
    per_column, states = run(split_by_subspace(*axes, scale, **options), params, 4)
    dense, _ = run(split_by_subspace(*axes, residual.Residual(scale), **options), params, 4)
    for t in range(4):
        np.testing.assert_allclose(per_column[t], dense[t], atol=1e-5)
        ratio = np.asarray(per_column[t]) / np.asarray(grads_like(params, t))
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], WIDE), rtol=1e-4)  # one factor a column


def test_residual_is_told_what_the_step_knows():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    tx = split_by_subspace(
        subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999),
        optax.GradientTransformationExtraArgs(optax.init_empty_state, update), rank=3, update_proj_gap=1,
    )  # fmt: skip
    grads = jnp.ones(WIDE)
    _, first = tx.update(grads, tx.init(grads), value=1.5)
    _, second = tx.update(grads, first, value=2.5)
    assert seen["value"] == 2.5
    split = seen["split"]
    np.testing.assert_array_equal(split.previous_basis, first.basis)
    np.testing.assert_array_equal(split.basis, second.basis)
    np.testing.assert_array_equal(split.previous_inner_state.mu, first.inner.mu)
    moved = grassmann.rotation(second.basis, first.basis) @ first.inner.mu
    np.testing.assert_allclose(split.inner_state.mu, moved, atol=1e-6)
    np.testing.assert_allclose(split.projected, grassmann.project(second.basis, grads), atol=1e-6)
    assert split.direction.shape == (3, 16)


def test_the_extra_argument_grad_of_line_searches_is_passed_through_untouched():
    seen = {}

    def recorded(name):
        def update(updates, state, params=None, **extra):
            seen[name] = extra["grad"]
            return updates, state

        return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)

    tx = split_by_subspace(
        subspaces.random_jump(), recorded("inner"), transport.keep(), recorded("residual"), rank=3, update_proj_gap=1
    )
    grads = jnp.ones(WIDE)
    tx.update(grads, tx.init(grads), grad="the caller's")
    assert seen == {"inner": "the caller's", "residual": "the caller's"}


COMBINED = {
    "chain": lambda tx: optax.chain(tx, optax.scale(0.5)),
    "masked": lambda tx: optax.masked(tx, {"w": True, "v": False}),
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.set_to_zero()}, {"w": "a", "v": "b"}),
}


@pytest.mark.parametrize("combined", COMBINED)
@pytest.mark.parametrize("name", ["recovery", "channel", "tensor", "feedback"])
def test_a_residual_is_an_optax_transformation(name, combined):
    """Its chain halves what lies outside; a mask and a partition reach the leaf that they name."""
    params = {"w": jnp.ones(WIDE), "v": jnp.ones(WIDE)}
    lift = name in ("recovery", "feedback")
    tx = {
        "recovery": residual.recovery(1.0001), "channel": residual.channel_scaling(None, 2.0),
        "tensor": residual.tensor_scaling(None, 2.0), "feedback": residual.error_feedback(0.9),
    }[name]  # fmt: skip

    def updates(part):
        axes = subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999)
        return run(split_by_subspace(*axes, part, rank=3, update_proj_gap=2, lift=lift), params, 5)[0]

    none = updates(optax.set_to_zero())[4]
    alone, parts = updates(tx)[4], updates(COMBINED[combined](tx))[4]
    factor = 0.5 if combined == "chain" and name != "feedback" else 1.0
    np.testing.assert_allclose(parts["w"] - none["w"], factor * (alone["w"] - none["w"]), atol=1e-5)
    assert np.abs(alone["w"] - none["w"]).max() > 0.01
    if combined == "partition":
        np.testing.assert_allclose(parts["v"], none["v"], atol=1e-6)


def test_a_chain_of_a_residual_can_be_marked_again():
    tx = optax.chain(residual.recovery(), optax.scale(0.5))
    axes = subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999)
    options = dict(rank=3, update_proj_gap=2)
    dense, marked = (
        run(split_by_subspace(*axes, form, **options), jnp.ones(WIDE), 5) for form in (tx, residual.per_column(tx))
    )
    np.testing.assert_allclose(marked[0][4], dense[0][4], atol=1e-5)
    with pytest.raises(ValueError, match="per_column"):
        residual.per_column(residual.error_feedback(0.9))


def test_betas_that_are_not_those_of_the_transport_are_refused():
    def init(**options):
        return grass_optax.scale_by_grassjump(rank=3, update_proj_gap=2, **options).init(jnp.ones(WIDE))

    other = optax.chain(optax.scale_by_adam(b1=0.5, b2=0.9), optax.identity())
    with pytest.raises(ValueError, match=r"b1 = 0.5.*rotates its moments with b1 = 0.9"):
        init(inner=other)
    with pytest.raises(ValueError, match=r"b2 = 0.9.*with b2 = 0.999"):
        init(inner=other, b1=0.5)
    init(inner=other, b1=0.5, b2=0.9)
    init(inner=optax.scale_by_lion(b1=0.5, b2=0.9))  # has no second moment to correct
    jax.eval_shape(lambda: init(mu_dtype="bfloat16", nu_dtype="float8_e4m3fn"))
    with pytest.raises(ValueError, match="b1 = 0.5"):
        jax.jit(lambda: init(inner=other))()


def test_equal_betas_make_an_inner_adam_the_methods_own():
    betas = dict(b1=0.5, b2=0.9)
    own, given = (
        run(grass_optax.scale_by_grassjump(rank=3, update_proj_gap=2, **betas, **options), jnp.ones(WIDE), 5)[0]
        for options in ({}, {"inner": optax.scale_by_adam(**betas)})
    )
    np.testing.assert_array_equal(own[4], given[4])


def test_a_rule_sees_its_leaf_of_the_inner_state():
    """A stateful rule that counts its refreshes and checks what it is shown."""

    def init(basis_shape, dtype):
        return jnp.zeros((), jnp.int32)

    def update(refresh):
        assert refresh.grad.ndim == 2
        assert refresh.inner_state.mu.shape == (3, refresh.grad.shape[-1])
        basis = grassmann.random_basis(refresh.key, refresh.basis.shape, refresh.basis.dtype)
        return basis, refresh.rule_state + 1

    tx = split_by_subspace(
        subspaces.SubspaceRule(init=init, update=update), optax.scale_by_adam(), transport.keep(), None, rank=3, update_proj_gap=2,
        initial=subspaces.random_jump(), weight_dimension_numbers=stacked_dimensions,
    )  # fmt: skip
    states = run(tx, {"w": jnp.ones(WIDE), "s": jnp.ones(STACK)}, 6)[1]
    assert [int(s.rule["w"]) for s in states] == [0, 0, 1, 1, 2, 2]
    assert states[-1].rule["s"].tolist() == [2, 2, 2]


def test_rates_decay_and_mask():
    """W <- W - lr (U + decay W) on split leaves, with its own rate on the others."""
    params = {"w": 2.0 * jnp.ones(WIDE), "v": 2.0 * jnp.ones(WIDE), "b": 2.0 * jnp.ones(3)}
    mask = {"w": True, "v": False, "b": True}
    tx = grass_optax.grassjump(0.1, rank=2, adam_learning_rate=0.01, weight_decay=0.5, mask=mask)
    direction = grass_optax.scale_by_grassjump(rank=2)
    grads = grads_like(params, 0)
    update, _ = tx.update(grads, tx.init(params), params)
    u, _ = direction.update(grads, direction.init(params))
    np.testing.assert_allclose(update["w"], -0.1 * (u["w"] + 0.5 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(update["v"], -0.1 * u["v"], rtol=1e-5)
    np.testing.assert_allclose(update["b"], -0.01 * (u["b"] + 0.5 * 2.0), rtol=1e-5)
    by_function = grass_optax.grassjump(
        0.1, rank=2, adam_learning_rate=0.01, weight_decay=0.5, mask=lambda p: {k: k != "v" for k in p}
    )
    again, _ = by_function.update(grads, by_function.init(params), params)
    for name in params:
        np.testing.assert_array_equal(again[name], update[name])


def test_reset_of_muon_keeps_its_coefficients():
    dims = optax.contrib.MuonDimensionNumbers(0, 1)
    state = optax.contrib.scale_by_muon(weight_dimension_numbers=dims).init(jnp.ones((4, 9)))
    state = state._replace(count=jnp.int32(3), mu=jnp.ones((4, 9)))
    after = transport.reset()((state, optax.EmptyState()), rotation())[0]
    assert after.count == 0
    assert not np.any(after.mu)
    np.testing.assert_array_equal(after.ns_coeffs, state.ns_coeffs)


def test_a_switch_between_keyed_rules_must_store_its_basis():
    rule = subspaces.switch(subspaces.random_jump(), subspaces.columns(), 5)
    with pytest.raises(ValueError, match="store_basis=False"):
        split_by_subspace(
            rule, optax.scale_by_adam(), transport.keep(), None, rank=2, update_proj_gap=4, store_basis=False
        )


@pytest.mark.parametrize("method", ["apollo", "apollo_mini", "grassjump"])
def test_squares_that_overflow_make_no_nan(method):
    """A gradient of 1e20 is finite, its squares are not: what is scaled by a norm is left out, and
    nothing spoilt.
    """
    options = {} if method == "apollo_mini" else {"rank": 2}
    tx = getattr(grass_optax, f"scale_by_{method}")(update_proj_gap=2, **options)
    state, update = tx.init(jnp.ones(WIDE)), jax.jit(tx.update)
    for t in range(5):
        updates, state = update(grads_like(jnp.ones(WIDE), t) * (1e20 if t == 1 else 1.0), state)
        assert jnp.all(jnp.isfinite(updates))
    if method == "apollo":  # the others share the second moments that are infinite now, as any Adam's would be
        assert jnp.linalg.norm(updates) > 0


def test_coap_starts_at_random_when_the_first_gradient_is_not_finite():
    grad = jnp.full(WIDE, jnp.nan)
    tx = grass_optax.scale_by_coap(rank=2)
    basis = basis_of(tx.update(grad, tx.init(grad))[1])
    assert grassmann.orthonormality_error(basis) < tolerances.ORTHONORMAL32
    assert jnp.max(jnp.abs(basis)) < 0.999


def test_scale_of_frugal_is_that_of_both_parts():
    grad = grads_like(jnp.ones(WIDE), 0)
    one, quarter = (grass_optax.scale_by_frugal(3, scale=s, sign_scale=0.5) for s in (1.0, 0.25))
    whole, part = (tx.update(grad, tx.init(grad))[0] for tx in (one, quarter))
    np.testing.assert_allclose(part, 0.25 * whole, rtol=1e-6)


def test_blocks_where_no_layer_is_stacked_are_an_error():
    params = {"layers": {"0": {"kernel": jnp.ones((8, 8))}, "1": {"kernel": jnp.ones((8, 8))}}}
    for tx in (grass_optax.badam(0.1), grass_optax.frugal(0.1, projection="blocks")):
        with pytest.raises(ValueError, match=r"no leaf stacks layers along axis 0.*path prefixes"):
            tx.init(params)
    assert grass_optax.badam(0.1, blocks=["layers/0", "layers/1"]).init(params)


def test_frugal_blocks():
    """Adam for one layer of four, the sign for the others; state of one layer."""
    params = {"kernel": jnp.ones((4, 3, 5))}
    tx = grass_optax.scale_by_frugal(projection="blocks", update_proj_gap=2, sign_scale=0.5)
    state, update = tx.init(params), jax.jit(tx.update)
    seen = set()
    for t in range(8):
        grads = grads_like(params, t)
        u, state = update(grads, state)
        is_sign = np.asarray(jnp.all(u["kernel"] == 0.5 * jnp.sign(grads["kernel"]), axis=(1, 2)))
        assert is_sign.sum() == 3
        seen.add(int(np.argmin(is_sign)))
    assert seen == {0, 1, 2, 3}
    moments = optax.tree_utils.tree_get(state, "BlockCoordinateState").inner
    assert sum(x.size for x in jax.tree.leaves(moments) if x.ndim) == 2 * 3 * 5
