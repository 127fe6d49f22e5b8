"""What makes each method itself: where its first basis is, how far it moves, and what a captured
gradient does.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import grassmann
from tests.util import basis_of, long_but, run

SHAPE, RANK = (24, 60), 6


def decaying(key=0):
    """A gradient with singular values 1/k, and its leading left singular vectors."""
    left, right = (grassmann.random_basis(jax.random.key(key + i), (n, 24), jnp.float32) for i, n in enumerate(SHAPE))
    return left * (1 / jnp.arange(1.0, 25.0))[None] @ right.T, left[:, :RANK]


@pytest.mark.parametrize(("method", "near"), [("grasswalk", True), ("grassjump", False)])
def test_a_walk_starts_near_the_leading_singular_vectors_and_a_jump_anywhere(method, near):
    """The walk starts near the leading singular vectors of the first gradient, the jump
    anywhere.
    """
    grad, leading = decaying()
    tx = getattr(grass_optax, method)(0.1, rank=RANK)
    basis = basis_of(tx.update(grad, tx.init(grad), grad)[1])
    captured = jnp.linalg.norm(grassmann.project(basis, grad)) / jnp.linalg.norm(grassmann.project(leading, grad))
    assert (captured > 0.98) == near


@pytest.mark.parametrize("walk_rank", long_but([3], [1, 3]))
def test_a_walk_turns_as_many_directions_by_as_much_as_asked(walk_rank):
    tx = grass_optax.grasswalk(0.1, rank=RANK, update_proj_gap=2, step_size=0.3, walk_rank=walk_rank)
    states = run(tx, jnp.zeros(SHAPE), 5)[1]
    for t in (2, 4):
        cosines = grassmann.principal_cosines(basis_of(states[t]), basis_of(states[t - 1]))
        expected = [1.0] * (RANK - walk_rank) + [np.cos(0.3)] * walk_rank
        np.testing.assert_allclose(cosines, expected, atol=1e-5)


@pytest.mark.long
def test_a_walk_without_a_step_size_turns_by_any_angle():
    tx = grass_optax.grasswalk(0.1, rank=RANK, update_proj_gap=1)
    states = run(tx, jnp.zeros(SHAPE), 40)[1]
    pairs = zip(states[1:], states[:-1], strict=True)
    turned = [float(grassmann.principal_cosines(basis_of(a), basis_of(b))[-1]) for a, b in pairs]
    # |cos| of a uniform angle: mean 2/pi, standard error 0.31 / sqrt(39) = 0.05
    assert abs(np.mean(turned) - 2 / np.pi) < 0.2
    assert np.std(turned) > 0.2


def test_a_jump_lands_anywhere():
    tx = grass_optax.grassjump(0.1, rank=RANK, update_proj_gap=1)
    states = run(tx, jnp.zeros(SHAPE), 20)[1]
    overlaps = [
        float(jnp.mean(grassmann.principal_cosines(basis_of(a), basis_of(b)) ** 2))
        for a, b in zip(states[1:], states[:-1], strict=True)
    ]
    assert abs(np.mean(overlaps) - RANK / SHAPE[0]) < 0.05  # independent subspaces share r/m


def test_a_captured_first_gradient_does_not_hold_the_rest_down():
    """Its recovered part is rounding, which must not become the norm that later ones may exceed by
    1 % a step.
    """
    a, b = jax.random.normal(jax.random.key(1), (24, 3)), jax.random.normal(jax.random.key(2), (3, 60))
    tx = grass_optax.scale_by_grasswalk(RANK)
    first, second = a @ b, jax.random.normal(jax.random.key(3), SHAPE)
    update, state = jax.jit(tx.update)(first, tx.init(first))
    assert float(optax.tree_utils.tree_get(state, "norm")) == 0
    update, state = jax.jit(tx.update)(second, state)
    outside = grassmann.to_tangent(basis_of(state), update)
    assert jnp.linalg.norm(outside) > 0.5 * jnp.linalg.norm(update)


@pytest.mark.parametrize("method", ["grassjump", "apollo_mini", "badam", "column_sgd"])
def test_adam_elsewhere_keeps_float32_moments_of_bf16_gradients(method):
    """In bf16 a second moment with b2 = 0.999 rounds back to itself and never decays."""
    tx = getattr(grass_optax, method)(0.1)
    params = jnp.ones(3, jnp.bfloat16)
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in (1.0, 0.0):
        for _ in range(50):
            updates, state = update(jnp.full(3, gradient, jnp.bfloat16), state, params)
    nu = [x for _, nu in optax.tree_utils.tree_get_all_with_path(state, "nu") for x in jax.tree.leaves(nu)]
    np.testing.assert_allclose(*nu, 0.999**50 * (1 - 0.999**50), rtol=1e-4)
    assert updates.dtype == jnp.bfloat16
