"""The residual as an error: what an update leaves out, the next one gets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import residual, split_by_subspace, subspaces, transport
from tests.util import STACK, WIDE, basis_of, grads_like, stacked_dimensions

B1 = 0.9


def split(moved, rule=None, gap=2):
    return split_by_subspace(
        subspaces.random_jump() if rule is None else rule, optax.scale_by_adam(b1=B1), moved,
        residual.error_feedback(b1=B1), rank=3, update_proj_gap=gap, weight_dimension_numbers=stacked_dimensions,
    )  # fmt: skip


def error_of(state):
    return state.residual_state.error


@pytest.mark.parametrize("shape", [WIDE, STACK])
def test_nothing_of_a_gradient_is_lost_in_a_fixed_subspace(shape):
    """What was given is what was projected and what is still held."""
    params = jnp.ones(shape)
    tx = split(transport.keep(), gap=100)
    state, given, projected = tx.init(params), 0.0, 0.0
    for t in range(5):
        grad = grads_like(params, t)
        held = error_of(state)
        _, state = tx.update(grad, state)
        basis = basis_of(state)
        given = given + grad
        projected = projected + basis @ (jnp.swapaxes(basis, -1, -2) @ (grad + held))
    np.testing.assert_allclose(projected + error_of(state), given, atol=1e-5)


def test_what_the_momentum_loses_in_a_change_of_basis_is_in_the_error():
    params = jnp.ones(WIDE)
    tx = split(transport.first_moment_only())
    state = tx.init(params)
    for t in range(2):
        _, state = tx.update(grads_like(params, t), state)
    held, old_basis, old_moment = error_of(state), basis_of(state), state.inner_state.mu
    grad = grads_like(params, 2)
    _, state = tx.update(grad, state)
    basis = basis_of(state)
    assert not np.allclose(basis, old_basis)
    total = grad + held
    projected = basis.T @ total
    moment = basis.T @ (old_basis @ old_moment)
    momentum = B1 / (1 - B1) * (old_basis @ old_moment - basis @ moment)
    np.testing.assert_allclose(error_of(state), total - basis @ projected + momentum, atol=2e-5)


def test_the_update_is_what_the_subspace_gives_alone():
    grad = jax.random.normal(jax.random.key(1), WIDE)
    with_feedback = split(transport.keep(), subspaces.frozen(jnp.eye(6, 3)))
    dropped = split_by_subspace(
        subspaces.frozen(jnp.eye(6, 3)), optax.scale_by_adam(b1=B1), transport.keep(), None, rank=3, update_proj_gap=2
    )
    one, other = (tx.update(grad, tx.init(grad))[0] for tx in (with_feedback, dropped))
    np.testing.assert_allclose(one, other, atol=1e-6)
