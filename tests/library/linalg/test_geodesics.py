"""Geodesics between points and tangents, against matrix exponentials and SciPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from grass_optax import grassmann
from tests import tolerances

SHAPES = [(9, 3), (6, 4), (4, 1), (5, 5)]  # also fewer directions outside than inside, and none
compiled = functools.cache(jax.jit)


def frame(rng, m):
    return np.linalg.qr(rng.standard_normal((m, m)))[0]


def drawn(seed, m, r, largest):
    """A whole frame Q = (S, its complement), and two tangents at S, the first of this largest
    singular value.
    """
    rng = np.random.default_rng(seed)
    q = frame(rng, m)
    inner = [rng.standard_normal((m - r, r)) for _ in range(2)]
    if m > r:
        inner[0] *= largest / np.linalg.norm(inner[0], 2)
    return q, *inner


def turned(b):
    """The matrix exponential of the skew-symmetric matrix of a tangent Q (0, B)."""
    m, r = sum(b.shape), b.shape[1]
    skew = np.zeros((m, m))
    skew[r:, :r], skew[:r, r:] = b, -b.T
    return scipy.linalg.expm(skew)


@pytest.mark.parametrize(("m", "r"), SHAPES)
@pytest.mark.parametrize("largest", [0.0, 1e-9, 1.2, 9.0])
def test_exp_and_transport_are_a_rotation_of_the_whole_space(m, r, largest):
    """Q expm(A) takes S to exp(S, H), and every tangent at S to its transport."""
    q, b, c = drawn(0, m, r, largest)
    with jax.enable_x64(True):
        basis, h, x = (jnp.asarray(a) for a in (q[:, :r], q[:, r:] @ b, q[:, r:] @ c))
        moved, carried = compiled(grassmann.exp)(basis, h), compiled(grassmann.parallel_transport)(basis, h, x)
    expected = q @ turned(b)
    np.testing.assert_allclose(moved, expected[:, :r], atol=tolerances.ORACLE64)
    np.testing.assert_allclose(carried, expected[:, r:] @ c, atol=tolerances.ORACLE64)


@settings(max_examples=25, deadline=None)
@given(shape=st.sampled_from(SHAPES), largest=st.floats(0, 1.5), seed=st.integers(0, 2**31))
def test_log_is_the_inverse_of_exp_within_the_injectivity_radius(shape, largest, seed):
    """Where no angle reaches pi/2; and whatever basis of the other subspace is given."""
    q, b, _ = drawn(seed, *shape, largest)
    r = shape[1]
    turn = frame(np.random.default_rng(seed), r)
    with jax.enable_x64(True):
        basis, h = jnp.asarray(q[:, :r]), jnp.asarray(q[:, r:] @ b)
        other = compiled(grassmann.exp)(basis, h)
        back = compiled(grassmann.log)(basis, other @ turn)
        length = compiled(grassmann.distance)(basis, other)
    # rounding over the cosine of 1.5, squared: log divides by sin(theta) cos(theta)
    np.testing.assert_allclose(back, h, atol=1e-12)
    assert length == pytest.approx(np.linalg.norm(b), abs=1e-12)


@pytest.mark.parametrize(("m", "r"), SHAPES)
def test_angles_are_those_of_scipy(m, r):
    q, b, _ = drawn(1, m, r, 1.3)
    first, second = q[:, :r], frame(np.random.default_rng(2), m)[:, :r]
    with jax.enable_x64(True):
        angles = compiled(grassmann.principal_angles)(jnp.asarray(first), jnp.asarray(second))
    # SciPy itself gives 4e-8 for angles of 0
    np.testing.assert_allclose(angles, scipy.linalg.subspace_angles(first, second)[::-1], atol=1e-7)


def test_small_angles_are_accurate_in_float32():
    """An arccosine would give 0, or 3e-4, for 1e-5."""
    q = frame(np.random.default_rng(0), 12)
    b = np.zeros((8, 4))
    b[0, 0], b[1, 1], b[2, 2] = 1e-5, 1e-3, 1.0
    other = (q @ turned(b))[:, :4]
    angles = grassmann.principal_angles(jnp.float32(q[:, :4]), jnp.float32(other))
    np.testing.assert_allclose(angles, [0, 1e-5, 1e-3, 1], atol=1e-6)


def test_leading_axes_are_batch_axes():
    key = jax.random.key(0)
    first, second = (grassmann.random_basis(k, (2, 3, 7, 2), jnp.float32) for k in jax.random.split(key))
    tangent = grassmann.log(first, second)
    results = tangent, grassmann.exp(first, tangent), grassmann.distance(first, second)
    for place in [(0, 0), (1, 2)]:
        alone = grassmann.log(first[place], second[place])
        np.testing.assert_allclose(results[0][place], alone, atol=tolerances.OUTSIDE32)
        np.testing.assert_allclose(results[1][place], grassmann.exp(first[place], alone), atol=tolerances.OUTSIDE32)
    assert results[2].shape == (2, 3)


def test_what_is_half_a_turn_away_has_no_unique_geodesic_and_stays_finite():
    axes = jnp.eye(4)
    assert np.all(np.isfinite(grassmann.log(axes[:, :2], axes[:, 1:3])))
