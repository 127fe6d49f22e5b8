"""Block means as a basis: the same linear map as its matrix, without arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import bases, split_by_subspace, subspaces, transport
from grass_optax.bases import as_basis
from grass_optax.bases.basis import of_stack
from grass_optax.residual import recovery, sign
from tests import tolerances
from tests.util import assert_same, long_but, run, stacked_dimensions

N = 20
PARTS = {"recovered": recovery(), "sign": sign(0.1)}
CUTS = [(12, 4), (13, 5), (7, 7), (9, 1)]
over_cuts = pytest.mark.parametrize(("m", "rank"), long_but([(13, 5)], CUTS))


def matrix_of_blocks(m, rank):
    """By NumPy's own cut of rows into nearly equal parts."""
    matrix = np.zeros((m, rank))
    for j, rows in enumerate(np.array_split(np.arange(m), rank)):
        matrix[rows, j] = len(rows) ** -0.5
    return matrix


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@over_cuts
def test_a_fold_multiplies_as_its_matrix_does(m, rank):
    basis, matrix = bases.Fold(m, rank), matrix_of_blocks(m, rank)
    grad, direction = (np.asarray(normal(seed, 2, 3, rows, N)) for seed, rows in ((1, m), (2, rank)))
    np.testing.assert_allclose(basis.to_matrix(), matrix, atol=1e-6)
    np.testing.assert_allclose(basis.project(jnp.asarray(grad)), matrix.T @ grad, atol=1e-5)
    np.testing.assert_allclose(basis.lift(direction), matrix @ direction, atol=1e-5)
    np.testing.assert_allclose(basis.squared().lift(direction), matrix**2 @ direction, atol=1e-5)
    np.testing.assert_allclose(basis.squared().project(grad), (matrix**2).T @ grad, atol=1e-5)
    np.testing.assert_allclose(basis.sums(grad), (matrix > 0).T @ grad, atol=1e-5)
    np.testing.assert_allclose(basis.spread(direction), (matrix > 0) @ direction, atol=1e-5)
    outside = grad - 0.25 * matrix @ (matrix.T @ grad)
    np.testing.assert_allclose(basis.remove(grad, basis.project(grad), 0.25), outside, atol=1e-5)


@over_cuts
def test_a_fold_is_orthonormal_and_turns_nothing(m, rank):
    basis, direction = bases.Fold(m, rank), normal(2, rank, N)
    np.testing.assert_allclose(basis.project(basis.lift(direction)), direction, atol=10 * tolerances.ORTHONORMAL32)
    rotation = as_basis(basis.rotation(basis, direction))
    np.testing.assert_array_equal(rotation.lift(direction), direction)
    np.testing.assert_array_equal(rotation.squared().lift(direction), direction)


def test_narrow_factors_accumulate_in_float32():
    basis = bases.Fold(12, 4)
    assert basis.project(jnp.ones((12, N), jnp.bfloat16)).dtype == jnp.float32
    assert basis.lift(jnp.ones((4, N), jnp.bfloat16)).dtype == jnp.float32


def test_a_stack_multiplied_matrix_by_matrix_gives_the_same():
    basis, grad = bases.Fold(13, 5), normal(1, 3, 13, N)
    np.testing.assert_allclose(of_stack(lambda s, g: s.project(g), True, basis, grad), basis.project(grad), atol=1e-5)


@pytest.mark.parametrize("part", long_but(["recovered"], PARTS))
def test_a_split_in_a_fold_is_the_split_in_its_matrix(part):
    """A stack and a tall leaf, with one program for all."""
    params = {"stack": jnp.zeros((3, 8, N)), "tall": jnp.zeros((N, 8))}
    axes = optax.scale_by_adam(), transport.rotate(0.9, 0.999), PARTS[part]
    options = dict(rank=3, update_proj_gap=2, weight_dimension_numbers=stacked_dimensions)
    matrix = jnp.asarray(matrix_of_blocks(8, 3), jnp.float32)
    folded, states = run(split_by_subspace(subspaces.fold(), *axes, **options), params, 5)
    dense, _ = run(split_by_subspace(subspaces.frozen(matrix), *axes, **options), params, 5)
    assert_same(folded, dense, 10 * tolerances.SAME32)
    assert jax.tree.leaves(states[-1].basis) == []


def test_a_fold_is_neither_stored_nor_refreshed():
    """Whatever the interval and the transport: the program has no loop, no branch, no draw and no
    product, and is that of any other key.
    """
    params = {"stack": jnp.zeros((3, 8, N)), "tall": jnp.zeros((N, 8))}

    def program(**options):
        tx = split_by_subspace(
            subspaces.fold(), optax.scale_by_adam(), transport.rotate(0.9, 0.999), recovery(), rank=3,
            weight_dimension_numbers=stacked_dimensions, **options,
        )  # fmt: skip
        return str(jax.make_jaxpr(tx.update)(params, tx.init(params)))

    text = program(update_proj_gap=1)
    assert text == program(update_proj_gap=7) == program(update_proj_gap=7, store_basis=False)
    assert "mul " in text  # the names of operations are in it
    assert not [word for word in ("while", "cond", "threefry", "random_", "dot_general", "scan") if word in text]


def test_another_first_basis_is_refused():
    with pytest.raises(ValueError, match="no `initial`"):
        split_by_subspace(
            subspaces.fold(), optax.scale_by_adam(), transport.keep(), None, rank=3, update_proj_gap=1,
            initial=subspaces.svd(),
        )  # fmt: skip


def test_its_bases_cannot_be_cut_into_blocks():
    with pytest.raises(ValueError, match="bases of this rule are Fold, but by_blocks needs arrays"):
        subspaces.by_blocks(subspaces.fold(), 2).form((8, 4), jnp.float32)
