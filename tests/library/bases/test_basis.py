"""The laws of a basis, over all of them: each is the linear map that its matrix is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import split_by_subspace, subspaces, transport
from grass_optax.bases import as_basis
from grass_optax.bases.basis import of_stack
from grass_optax.residual import recovery, sign
from tests import tolerances
from tests.util import assert_same, grads_like, injected, long_but, run

M, RANK, N = 12, 4, 20
BATCHES = [(), (2, 3)]
KINDS = {
    "dense": subspaces.random_jump(),
    "blocks": subspaces.random_jump("blocks", 2),
    "columns": subspaces.random_jump("columns"),
    "cosine": subspaces.random_jump("cosine"),
}
over_kinds = pytest.mark.parametrize("kind", KINDS)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)


@functools.cache
def drawn(kind, batch=(), dtype=jnp.float32, seed=0, shape=(M, RANK)):
    """Bases of this kind, one for each matrix of a batch."""
    rule = KINDS[kind]

    def one(key):
        refresh = subspaces.Refresh(key, jnp.int32(0), None, rule.form(shape, dtype), None, None)
        return rule.update(refresh)[0]

    for _ in batch:
        one = jax.vmap(one)
    return as_basis(one(jax.random.split(jax.random.key(seed), batch) if batch else jax.random.key(seed)))


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def transposed(x):
    return jnp.swapaxes(x, -1, -2)


@pytest.mark.parametrize(
    ("kind", "batch"),
    long_but([*((kind, ()) for kind in KINDS), ("columns", (2, 3))], itertools.product(KINDS, BATCHES)),
    ids=str,
)
def test_a_basis_multiplies_as_its_matrix_does(kind, batch):
    basis, grad, direction = drawn(kind, batch), normal(1, *batch, M, N), normal(2, *batch, RANK, N)
    matrix = basis.to_matrix()
    assert (basis.rank, matrix.shape) == (RANK, (*batch, M, RANK))
    np.testing.assert_allclose(basis.project(grad), transposed(matrix) @ grad, atol=1e-5)
    np.testing.assert_allclose(basis.lift(direction), matrix @ direction, atol=1e-5)


@over_kinds
def test_project_and_lift_are_adjoint(kind):
    basis, grad, direction = drawn(kind, (3,)), normal(1, 3, M, N), normal(2, 3, RANK, N)
    inside = jnp.vdot(basis.project(grad), direction)
    np.testing.assert_allclose(inside, jnp.vdot(grad, basis.lift(direction)), rtol=1e-5)


@over_kinds
def test_bases_are_orthonormal(kind):
    direction = normal(2, 3, RANK, N)
    basis = drawn(kind, (3,))
    np.testing.assert_allclose(basis.project(basis.lift(direction)), direction, atol=10 * tolerances.ORTHONORMAL32)


@over_kinds
def test_bases_are_orthonormal_to_float64(kind):
    with jax.enable_x64(True):
        basis, direction = drawn(kind, dtype=jnp.float64), normal(2, RANK, N, dtype=jnp.float64)
        back = basis.project(basis.lift(direction))
        assert back.dtype == jnp.float64
        np.testing.assert_allclose(back, direction, atol=1e-12)


@over_kinds
def test_no_direction_is_preferred(kind):
    """E[S S^T] = (r/m) I: over 4000 draws each entry is known to 0.5 / sqrt(4000) = 0.008."""
    matrix = drawn(kind, (4000,)).to_matrix()
    mean = jnp.mean(matrix @ transposed(matrix), axis=0)
    np.testing.assert_allclose(mean, RANK / M * jnp.eye(M), atol=0.04)


@over_batches
@over_kinds
def test_a_rotation_takes_coordinates_to_the_new_basis(kind, batch):
    old, new = drawn(kind, batch), drawn(kind, batch, seed=1)
    direction, like = normal(2, *batch, RANK, N), normal(1, *batch, M, N)
    rotation = as_basis(new.rotation(old, like))
    expected = transposed(new.to_matrix()) @ old.to_matrix()
    np.testing.assert_allclose(rotation.lift(direction), expected @ direction, atol=1e-5)
    np.testing.assert_allclose(rotation.squared().lift(direction), jnp.square(expected) @ direction, atol=1e-5)
    np.testing.assert_allclose(rotation.project(direction), transposed(expected) @ direction, atol=1e-5)


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@over_kinds
def test_what_is_removed_is_what_lies_inside(kind, fraction):
    basis, grad = drawn(kind, (3,)), normal(1, 3, M, N)
    outside = basis.remove(grad, basis.project(grad), fraction)
    np.testing.assert_allclose(outside, grad - fraction * basis.lift(basis.project(grad)), atol=1e-5)


@over_kinds
def test_squares_of_a_basis_are_those_of_its_entries(kind):
    basis, direction = drawn(kind, (3,)), normal(2, 3, RANK, N)
    np.testing.assert_allclose(basis.squared().lift(direction), jnp.square(basis.to_matrix()) @ direction, atol=1e-5)


@over_kinds
def test_a_stack_multiplied_matrix_by_matrix_gives_the_same(kind):
    basis, grad = drawn(kind, (2, 3)), normal(1, 2, 3, M, N)
    one_by_one = of_stack(lambda s, g: s.project(g), True, basis, grad)
    np.testing.assert_allclose(one_by_one, basis.project(grad), atol=1e-5)
    single, first = drawn(kind), grad[0, 0]
    np.testing.assert_allclose(of_stack(lambda s, g: s.project(g), True, single, first), single.project(first))


@over_kinds
def test_narrow_factors_accumulate_in_float32(kind):
    basis = drawn(kind, (3,))
    basis = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, basis)
    grad, direction = normal(1, 3, M, N, dtype=jnp.bfloat16), normal(2, 3, RANK, N, dtype=jnp.bfloat16)
    assert basis.project(grad).dtype == jnp.float32
    assert basis.lift(direction).dtype == jnp.float32
    assert as_basis(basis.rotation(basis, grad)).lift(direction).dtype == jnp.float32


PARTS = {"recovered": recovery(), "sign": sign(0.1)}
SHAPES = {"tall": (N, M), "stack": (3, M, N)}


@pytest.mark.parametrize(
    ("kind", "part", "shape"),
    long_but(
        [("blocks", "sign", "tall"), ("columns", "recovered", "stack"), ("cosine", "recovered", "tall")],
        itertools.product(("blocks", "columns", "cosine"), PARTS, SHAPES),
    ),
)
def test_a_split_in_a_basis_is_the_split_in_its_matrix(kind, part, shape):
    """Five updates, two refreshes; the same bases given as arrays, matrix by matrix."""
    gap, steps, is_stack = 2, 5, shape == "stack"
    axes = (optax.scale_by_adam(), transport.rotate(0.9, 0.999), PARTS[part])
    options = dict(rank=RANK, update_proj_gap=gap)
    dims = optax.contrib.MuonDimensionNumbers(1, 2) if is_stack else None
    params = jnp.zeros(SHAPES[shape])
    tx = split_by_subspace(KINDS[kind], *axes, weight_dimension_numbers=dims, **options)
    updates, states = run(tx, params, steps)
    matrices = [as_basis(s.basis).to_matrix() for s in states[::gap]]
    for i in range(3 if is_stack else 1):
        own = [x[i] if is_stack else x for x in (*matrices, *updates)]
        bases, expected = own[: len(matrices)], own[len(matrices) :]
        dense = split_by_subspace(injected(bases, gap), *axes, **options)
        state, update = dense.init(expected[0]), jax.jit(dense.update)
        for t in range(steps):
            grad = grads_like(params, t)
            found, state = update(grad[i] if is_stack else grad, state)
            assert_same(expected[t], found, 10 * tolerances.SAME32)
