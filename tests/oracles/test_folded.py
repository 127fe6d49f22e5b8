"""FOAM and GWT against float64 oracles of the formulas of their codes, and how they are related."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import bases, residual, split_by_subspace, subspaces, transport
from tests.oracles.drive import ALL_SHAPES, RANK, close, gradients, history, matrices, turned
from tests.oracles.folded import Foam, Gwt, haar, inverse_haar
from tests.util import long_but, stacked_dimensions

ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)
FOUR_TO_A_BLOCK = (("stack", (2, 8, 16)), ("square", (8, 8)), ("tall", (20, 8)))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def follow(tx, make, shapes):
    """Every update of every matrix."""
    steps = history(tx, shapes)
    oracles = [make() for _ in turned(steps[0].grads)]
    for step in steps:
        for oracle, grad, update in zip(oracles, turned(step.grads), turned(step.updates), strict=True):
            close(update, oracle.step(grad))
    return oracles


@pytest.mark.parametrize(
    ("second_moment", "residual_scale"),
    long_but(
        [("mean_of_squares", 0.5)],
        [("mean_of_squares", 1.0), ("mean_of_squares", 0.5), ("square_of_means", 1.0)],
    ),
)
def test_foam_follows_its_oracle(second_moment, residual_scale):
    """In blocks of 2 rows, and of 3, 3 and 2."""
    options = dict(rank=RANK, scale=0.3, residual_scale=residual_scale, **ADAM)
    tx = grass_optax.scale_by_foam(second_moment=second_moment, weight_dimension_numbers=stacked_dimensions, **options)
    follow(tx, lambda: Foam(of_squares=second_moment == "mean_of_squares", **options), ALL_SHAPES)


@pytest.mark.parametrize("growth", long_but([1.01], [1.01, None]))
def test_gwt_follows_its_oracle_which_transforms_level_by_level(growth):
    options = dict(rank=2, scale=0.3, **ADAM)
    tx = grass_optax.scale_by_gwt(max_norm_growth=growth, weight_dimension_numbers=stacked_dimensions, **options)
    oracles = follow(tx, lambda: Gwt(growth=growth, **options), FOUR_TO_A_BLOCK)
    assert all((0 < x.limit.fired < 11) == (growth is not None) for x in oracles)


@pytest.mark.parametrize("levels", long_but([2], [0, 1, 2, 3]))
def test_one_basis_has_the_folds_of_foam_and_the_approximations_of_gwt(levels):
    """S^T G is FOAM's fold times the root of a block, and GWT's approximation; G - S S^T G is what
    FOAM's fold leaves over, and what the details make.
    """
    (grad,) = matrices(gradients(0, (("wide", (8, 16)),)))
    rank = len(grad) // 2**levels
    basis = bases.Fold(len(grad), rank)
    approximation, details = haar(grad, levels)
    foam = Foam(residual_scale=1.0, of_squares=True, rank=rank, scale=1.0, **ADAM)
    projected = basis.project(jnp.asarray(grad))
    close(projected, approximation)
    close(projected, 2 ** (levels / 2) * foam.fold(grad))
    close(basis.lift(projected), foam.unfold(foam.fold(grad), len(grad)))
    outside = basis.remove(jnp.asarray(grad), projected, 1.0)
    np.testing.assert_allclose(outside, inverse_haar(np.zeros_like(approximation), details), rtol=0, atol=1e-12)
    np.testing.assert_allclose(outside, grad - foam.unfold(foam.fold(grad), len(grad)), rtol=0, atol=1e-12)


def test_gwt_without_its_details_is_adam_on_a_fold_and_foam_differs_in_the_residual_alone():
    """Rule, transport and Adam are the same: what the three updates have inside the subspace, and
    the moments, are one.
    """
    shapes = (("wide", (8, 16)),)
    options = dict(rank=2, update_proj_gap=1)

    def split(outside, **more):
        adam = optax.scale_by_adam(**ADAM)
        return split_by_subspace(subspaces.fold(), adam, transport.keep(), outside, **options, **more)

    args = ADAM["b1"], ADAM["b2"], ADAM["eps"]
    folded = history(split(None), shapes)
    gwt = history(split(residual.block_scaling(*args)), shapes)
    foam = history(split(residual.unfolded_adam(*args), lift=False), shapes)
    basis = bases.Fold(8, 2)
    for own, of_gwt, of_foam in zip(folded, gwt, foam, strict=True):
        inside = basis.lift(basis.project(of_gwt.updates["wide"]))
        close(inside, np.asarray(own.updates["wide"]))
        for other in (of_gwt, of_foam):
            close(other.state.inner_state.nu["wide"], np.asarray(own.state.inner_state.nu["wide"]))
        assert not np.allclose(of_foam.updates["wide"], of_gwt.updates["wide"], rtol=0.1)
