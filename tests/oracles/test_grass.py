"""GrassJump and GrassWalk against the NumPy of reference/grass.py, in the library's bases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from reference.grass import GrassOracle
from tests import tolerances
from tests.oracles.drive import ALL_SHAPES, GAP, RANK, SHAPES, STEPS, follow, history, never
from tests.util import SQUARE, WIDE, basis_of, of_each_kind, run, stacked_dimensions

ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)
SCALE_BY = {"grassjump": grass_optax.scale_by_grassjump, "grasswalk": grass_optax.scale_by_grasswalk}
both = of_each_kind(("grassjump",), SCALE_BY)


def check(name, shapes, dtype, tolerance, *, zeta=1.01, completion="none", **options):
    """Every matrix of every leaf beside an oracle of its own."""
    tx = SCALE_BY[name](
        RANK, GAP, scale=0.25, max_norm_growth=zeta, completion=completion,
        weight_dimension_numbers=stacked_dimensions, **ADAM, **options,
    )  # fmt: skip
    oracle = functools.partial(GrassOracle, scale=0.25, gap=GAP, zeta=zeta, completion=completion, **ADAM)
    follow(history(tx, shapes, dtype), oracle, never, tolerance=tolerance)


@both
def test_a_method_follows_its_oracle_in_every_orientation(name):
    with jax.enable_x64(True):
        check(name, ALL_SHAPES, "float64", tolerances.ORACLE64)


@both
def test_a_method_follows_its_oracle_in_float32(name):
    check(name, SHAPES, "float32", tolerances.ORACLE32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grassjump", dict(zeta=None)),
        ("grassjump", dict(zeta=0.5)),
        pytest.param("grassjump", dict(zeta=float("inf"), completion="isotropic"), marks=pytest.mark.long),
        ("grassjump", dict(basis="gaussian", completion="isotropic")),
        ("grasswalk", dict(step_size=0.3)),
        pytest.param("grasswalk", dict(walk_rank=2, completion="isotropic"), marks=pytest.mark.long),
    ],
)
def test_a_method_follows_its_oracle_under_every_option(name, options):
    with jax.enable_x64(True):
        check(name, SHAPES, "float64", tolerances.ORACLE64, **options)


@both
def test_the_oracle_sees_the_bases_move(name):
    """The agreement above would mean little if the bases were the same at every step."""
    tx = SCALE_BY[name](2, GAP)
    bases = [np.asarray(basis_of(s)) for s in run(tx, jnp.zeros(WIDE), STEPS)[1]]
    for t in range(1, STEPS):
        assert np.array_equal(bases[t], bases[t - 1]) == (t % GAP != 0)


def test_square_matrices_are_reduced_on_their_input_axis():
    """A gradient in the first column alone: with S on axis 0, no other column can get anything."""
    tx = SCALE_BY["grassjump"](2, max_norm_growth=None)
    grad = jnp.zeros(SQUARE).at[:, 0].set(1.0)
    update, state = tx.update(grad, tx.init(grad), grad)
    basis = np.asarray(basis_of(state))
    first = np.asarray(update)[:, 0]
    assert np.all(np.asarray(update)[:, 1:] == 0)  # only the input axis is mixed
    assert np.linalg.norm(basis.T @ first) > 0
