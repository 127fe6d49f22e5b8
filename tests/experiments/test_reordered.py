"""Blocks of other rows than consecutive ones: the linear map of its matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.reordered import strided
from grass_optax import split_by_subspace, subspaces, transport
from grass_optax.residual import recovery
from tests import tolerances
from tests.util import assert_same, grads_like, injected, run

M, RANK, N, BLOCKS = 12, 4, 20, 2


def drawn(seed: int):
    rule = strided(BLOCKS)
    old = rule.form((M, RANK), jnp.float32)
    return rule.update(subspaces.Refresh(jax.random.key(seed), jnp.int32(0), None, old, None, None))[0]


def test_a_block_has_every_other_row() -> None:
    matrix = drawn(0).to_matrix()
    assert jnp.all(matrix[1::2, : RANK // 2] == 0)
    assert jnp.all(matrix[::2, RANK // 2 :] == 0)


def test_it_is_the_map_of_its_matrix_and_orthonormal() -> None:
    new, old = drawn(0), drawn(1)
    grad, direction = jax.random.normal(jax.random.key(2), (M, N)), jax.random.normal(jax.random.key(3), (RANK, N))
    matrix = new.to_matrix()
    np.testing.assert_allclose(matrix.T @ matrix, jnp.eye(RANK), atol=tolerances.ORTHONORMAL32)
    np.testing.assert_allclose(new.project(grad), matrix.T @ grad, atol=1e-5)
    np.testing.assert_allclose(new.lift(direction), matrix @ direction, atol=1e-5)
    np.testing.assert_allclose(
        new.remove(grad, matrix.T @ grad, 0.5), grad - 0.5 * matrix @ (matrix.T @ grad), atol=1e-5
    )
    np.testing.assert_allclose(new.rotation(old, grad).to_matrix(), matrix.T @ old.to_matrix(), atol=1e-5)
    np.testing.assert_allclose(new.squared().to_matrix(), jnp.square(matrix), atol=1e-6)


def test_a_split_in_it_is_the_split_in_its_matrix() -> None:
    axes = (optax.scale_by_adam(), transport.rotate(0.9, 0.999), recovery())
    params, options = jnp.zeros((M, N)), dict(rank=RANK, update_proj_gap=2)
    updates, states = run(split_by_subspace(strided(BLOCKS), *axes, **options), params, 5)
    matrices = [state.basis.to_matrix() for state in states[::2]]
    dense = split_by_subspace(injected(matrices, 2), *axes, **options)
    state, update = dense.init(params), jax.jit(dense.update)
    for t in range(5):
        found, state = update(grads_like(params, t), state)
        assert_same(updates[t], found, 10 * tolerances.SAME32)
