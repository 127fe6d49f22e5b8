"""Our GaLore against Optax's own, `optax.contrib.galore`. On square matrices, where both have the
basis on the input axis, they are one algorithm; docs/reference/parity.md has the results.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax._linalg import spectral
from tests import tolerances
from tests.util import run

RATE, RANK, GAP, STEPS = 0.01, 4, 4, 12  # refreshes at t = 5 and 9


def differences(shape, **options):
    """The largest difference of each step, relative to the largest entry of theirs. One matrix: see
    `same_svd`.
    """
    params = jnp.ones(shape)  # not zero, for the weight decay
    ours, theirs = (
        run(galore(RATE, RANK, GAP, scale=0.5, **options), params, STEPS)[0]
        for galore in (grass_optax.galore, optax.contrib.galore)
    )
    return np.array([np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)])


@pytest.fixture
def same_svd(monkeypatch):
    """XLA's SVD for ours too, also where NumPy takes its place because programs with several can
    hang: the signs of singular vectors are a convention, and moments that are kept over a refresh
    depend on them.
    """
    monkeypatch.setattr(spectral, "_LAPACK_IS_SAFE", True)


@pytest.mark.usefixtures("same_svd")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_square_matrix_over_refreshes(weight_decay):
    assert differences((24, 24), weight_decay=weight_decay).max() < tolerances.SAME32


def test_a_square_matrix_until_the_first_refresh():
    assert differences((24, 24))[:GAP].max() < tolerances.PUBLISHED32


@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_other_matrices_have_their_basis_on_the_other_side(shape):
    assert differences(shape)[:GAP].min() > 0.5
