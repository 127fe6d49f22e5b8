"""The leading directions stay while gradients say so, and the others are drawn anew."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import split_by_subspace, subspaces, transport

GAP, RANK, LEADING = 3, 4, 2
SHAPE = (8, 12)


def split(rule, inner):
    return split_by_subspace(rule, inner, transport.keep(), None, rank=RANK, update_proj_gap=GAP)


def bases(rule, inner, grads):
    """The basis after each update."""
    tx = split(rule, inner)
    state, update, found = tx.init(grads[0]), jax.jit(tx.update), []
    for grad in grads:
        _, state = update(grad, state)
        found.append(np.asarray(state.basis))
    return found


def remembering(decay):
    return optax.chain(subspaces.averaged_gram(decay), optax.scale_by_adam())


def outside(basis, direction):
    return np.linalg.norm(direction - basis @ (basis.T @ direction))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_two_strong_directions_are_kept_and_two_are_drawn(decay):
    left = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(0), SHAPE)))[0]
    strength = jnp.array([9.0, 5.0] + [0.01] * 6)
    grads = [(left * strength[None]) @ jax.random.normal(jax.random.key(t), SHAPE) for t in range(3 * GAP)]
    inner = optax.scale_by_adam() if decay is None else remembering(decay)
    found = bases(subspaces.leading_and_random(LEADING, decay), inner, grads)
    for basis in found:
        np.testing.assert_allclose(basis.T @ basis, np.eye(RANK), atol=1e-5)
        assert all(outside(basis[:, :LEADING], left[:, i]) < 0.01 for i in range(LEADING))
    drawn = [found[i * GAP][:, LEADING:] for i in range(3)]
    assert all(np.linalg.norm(a.T @ b) < 1.3 for a, b in itertools.pairwise(drawn))


def test_what_is_remembered_outweighs_one_other_gradient():
    """Rows 0 and 1 until the refresh, where the gradient is row 2 alone."""
    usual = jnp.zeros(SHAPE).at[:2].set(jax.random.normal(jax.random.key(1), (2, SHAPE[1])))
    other = jnp.zeros(SHAPE).at[2].set(1.0)
    grads = [usual] * GAP + [other]
    with_memory = bases(subspaces.leading_and_random(LEADING, 0.9), remembering(0.9), grads)[-1]
    without = bases(subspaces.leading_and_random(LEADING), optax.scale_by_adam(), grads)[-1]
    assert all(outside(with_memory[:, :LEADING], np.eye(8)[i]) < 1e-3 for i in (0, 1))
    assert outside(without[:, :LEADING], np.eye(8)[2]) < 1e-3


def test_all_can_be_leading_and_a_gradient_of_zero_keeps_them():
    rule = subspaces.leading_and_random(RANK)
    grads = [jax.random.normal(jax.random.key(0), SHAPE)] * GAP + [jnp.zeros(SHAPE)]
    found = bases(rule, optax.scale_by_adam(), grads)
    np.testing.assert_allclose(np.abs(found[-1].T @ found[0]).max(axis=0), np.ones(RANK), atol=1e-4)


def test_a_gradient_that_is_not_finite_keeps_the_basis():
    grads = [jax.random.normal(jax.random.key(0), SHAPE)] * GAP + [jnp.full(SHAPE, jnp.nan)]
    found = bases(subspaces.leading_and_random(LEADING), optax.scale_by_adam(), grads)
    np.testing.assert_array_equal(found[-1], found[0])


def test_more_leading_directions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="leading is 5, but a subspace has 4 directions"):
        split(subspaces.leading_and_random(5), optax.scale_by_adam()).init(jnp.ones(SHAPE))
    with pytest.raises(ValueError, match="leading"):
        subspaces.leading_and_random(0)


def test_a_rule_that_remembers_needs_what_is_remembered():
    tx = split(subspaces.leading_and_random(LEADING, 0.9), optax.scale_by_adam())
    with pytest.raises(TypeError, match=r"Give inner=optax.chain\(subspaces.averaged_gram"):
        tx.update(jnp.ones(SHAPE), tx.init(jnp.ones(SHAPE)))
