"""Both methods against the float64 oracle, which is given the library's bases, over three refreshes
and more.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from reference.grass import GrassOracle
from tests import tolerances
from tests.util import SQUARE, STACK, TALL, WIDE, basis_of, grads_like, run, stacked_dimensions

GAP, STEPS = 3, 12  # refreshes at t = 4, 7, 10
ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)
SCALE_BY = {"grassjump": grass_optax.scale_by_grassjump, "grasswalk": grass_optax.scale_by_grasswalk}


def canonical(x):
    """(..., m, n) with m <= n: the test's own words for what layouts does."""
    x = np.asarray(x)
    return np.swapaxes(x, -1, -2) if x.shape[-2] > x.shape[-1] else x


def check(method, shapes, dtype, tolerance, completion="none", zeta=1.01, **options):
    """Every matrix of every leaf against an oracle of its own."""
    params = {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}
    tx = SCALE_BY[method](
        rank=4, update_proj_gap=GAP, scale=0.25, max_norm_growth=zeta, completion=completion,
        weight_dimension_numbers=stacked_dimensions, **ADAM, **options,
    )  # fmt: skip
    updates, states = run(tx, params, STEPS)
    for name, shape in shapes.items():
        matrices = int(np.prod(shape[:-2]))
        oracles = [GrassOracle(scale=0.25, zeta=zeta, gap=GAP, completion=completion, **ADAM) for _ in range(matrices)]
        for t in range(STEPS):
            grad, update = canonical(grads_like(params, t)[name]), canonical(updates[t][name])
            grad, update = (x.reshape(-1, *x.shape[-2:]) for x in (grad, update))
            basis = np.asarray(basis_of(states[t])[name]).reshape(matrices, -1, 4)
            for i, oracle in enumerate(oracles):
                expected = oracle.step(grad[i], basis[i])
                np.testing.assert_allclose(update[i], expected, rtol=0, atol=tolerance * np.abs(expected).max())
        assert all(oracle.t > 3 * GAP for oracle in oracles)


@pytest.mark.parametrize("method", SCALE_BY)
def test_method_is_its_oracle(method):
    with jax.enable_x64(True):
        shapes = {"wide": WIDE, "tall": TALL, "square": SQUARE, "stack": STACK}
        check(method, shapes, "float64", tolerances.ORACLE64)


@pytest.mark.parametrize("method", SCALE_BY)
def test_method_is_its_oracle_in_float32(method):
    check(method, {"stack": STACK}, "float32", tolerances.ORACLE32)


OPTIONS = [
    ("grassjump", dict(zeta=None)),
    ("grassjump", dict(zeta=0.5)),
    ("grassjump", dict(zeta=float("inf"), completion="isotropic")),
    ("grassjump", dict(orthonormal=False, completion="isotropic")),
    ("grasswalk", dict(step_size=0.3)),
    ("grasswalk", dict(walk_rank=2, completion="isotropic")),
]


@pytest.mark.parametrize(("method", "options"), OPTIONS)
def test_options(method, options):
    with jax.enable_x64(True):
        check(method, {"stack": STACK}, "float64", tolerances.ORACLE64, **options)


@pytest.mark.parametrize("method", SCALE_BY)
def test_the_oracle_sees_the_bases_move(method):
    """The agreement above would mean little if the bases were the same at every step."""
    tx = SCALE_BY[method](rank=2, update_proj_gap=GAP)
    bases = [np.asarray(basis_of(s)) for s in run(tx, jnp.zeros(WIDE), STEPS)[1]]
    for t in range(1, STEPS):
        assert np.array_equal(bases[t], bases[t - 1]) == (t % GAP != 0)


def test_square_matrices_are_reduced_on_their_input_axis():
    """A gradient in the first column alone: with S on axis 0, no other column can get anything."""
    tx = SCALE_BY["grassjump"](rank=2, max_norm_growth=None)
    grad = jnp.zeros(SQUARE).at[:, 0].set(1.0)
    update, state = tx.update(grad, tx.init(grad), grad)
    basis = np.asarray(basis_of(state))
    first = np.asarray(update)[:, 0]
    assert np.all(np.asarray(update)[:, 1:] == 0)  # only the input axis is mixed
    assert np.linalg.norm(basis.T @ first) > 0
