"""What becomes of the two parts of a gradient, inside the subspace and outside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import grass_optax
from grass_optax import grassmann, residual, split_by_subspace, subspaces, transport
from tests.util import WIDE, basis_of, grads_like, run


def test_without_orthonormal_bases_nothing_is_inverted():
    """One step by hand: g = S^T G and S N literally; the recovered part is that of G - S g."""
    grad = grads_like(jnp.ones(WIDE), 0)
    tx = grass_optax.scale_by_grassjump(3, basis="gaussian", max_norm_growth=None)
    with jax.enable_x64(True):
        grad = grad.astype(jnp.float64)
        update, state = tx.update(grad, tx.init(grad))
    basis = np.asarray(basis_of(state))
    assert np.abs(basis.T @ basis - np.eye(3)).max() > 0.05
    g = basis.T @ np.asarray(grad)
    phi = np.linalg.norm(np.sign(g), axis=0) / np.linalg.norm(g, axis=0)  # Adam's first step is the sign
    expected = 0.25 * basis @ np.sign(g) + phi * (np.asarray(grad) - basis @ g)
    np.testing.assert_allclose(update, expected, atol=1e-6)  # eps of Adam, 1e-8, over |g|


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
    dense, _ = run(split_by_subspace(*axes, residual.marked(scale), **options), params, 4)
    for t in range(4):
        np.testing.assert_allclose(per_column[t], dense[t], atol=1e-5)
        ratio = np.asarray(per_column[t]) / np.asarray(grads_like(params, t))
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], WIDE), rtol=1e-4)  # one factor a column


def test_a_residual_sees_what_the_step_knows():
    def update(updates, state, params=None, **extra):
        return updates, extra

    tx = split_by_subspace(
        subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999),
        optax.GradientTransformationExtraArgs(optax.init_empty_state, update), rank=3, update_proj_gap=1,
    )  # fmt: skip
    grads = jnp.ones(WIDE)
    _, first = tx.update(grads, tx.init(grads), value=1.5)
    _, second = tx.update(grads, first, value=2.5)
    seen = second.residual_state
    assert seen["value"] == 2.5
    split = seen["split"]
    np.testing.assert_array_equal(split.previous_basis, first.basis)
    np.testing.assert_array_equal(split.basis, second.basis)
    np.testing.assert_array_equal(split.previous_inner_state.mu, first.inner_state.mu)
    np.testing.assert_array_equal(split.updated_inner_state.mu, second.inner_state.mu)
    moved = grassmann.rotation(second.basis, first.basis) @ first.inner_state.mu
    np.testing.assert_allclose(split.inner_state.mu, moved, atol=1e-6)
    np.testing.assert_allclose(split.projected, grassmann.project(second.basis, grads), atol=1e-6)
    assert split.direction.shape == (3, 16)


def test_an_inner_optimizer_sees_what_the_step_knows_but_not_what_it_makes_itself():
    seen = []

    def update(updates, state, params=None, **extra):
        seen.append(extra["split"])
        return updates, state

    tx = split_by_subspace(
        subspaces.random_jump(), optax.GradientTransformationExtraArgs(optax.init_empty_state, update),
        transport.keep(), None, rank=3, update_proj_gap=1,
    )  # fmt: skip
    grads = jnp.ones(WIDE)
    jax.eval_shape(tx.update, grads, tx.init(grads))
    (split,) = (x for x in seen if x is not None)
    assert (split.grad.shape, split.projected.shape) == (WIDE, (3, WIDE[1]))
    assert split.direction is None
    assert split.updated_inner_state is None


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
