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


@pytest.mark.parametrize(
    "cosines",
    [
        [0.0, 0.0, 0.0],  # orthogonal subspaces
        [1.0, 0.0, 0.0, 0.5],
        [1e-7, 1e-4, 0.0, 2e-4],  # below the root of rounding, where a Gram matrix mixes them
        [1e-7],
    ],
)
def test_log_is_one_of_the_shortest_geodesics_where_angles_are_a_right_angle_or_close(cosines):
    """As long as the distance, orthogonal to S, and it ends in the other subspace; in any bases."""
    r, rng = len(cosines), np.random.default_rng(0)
    q, angles = frame(rng, 2 * r + 1), np.arccos(cosines)
    s, w = q[:, :r], q[:, r : 2 * r]
    first, second = (jnp.float32(x @ frame(rng, r)) for x in (s, s * np.cos(angles) + w * np.sin(angles)))
    tangent = compiled(grassmann.log)(first, second)
    moved = compiled(grassmann.exp)(first, tangent)
    np.testing.assert_allclose(np.linalg.norm(tangent), np.linalg.norm(angles), rtol=1e-6)
    np.testing.assert_allclose(compiled(grassmann.distance)(first, second), np.linalg.norm(angles), rtol=1e-6)
    np.testing.assert_allclose(first.T @ tangent, np.zeros((r, r)), atol=2e-6)
    np.testing.assert_allclose(moved @ moved.T, second @ second.T, atol=2e-6)


def test_log_of_axes_at_right_angles_reaches_them():
    """Bases whose product is exactly zero, alone and beside others in a batch."""
    axes = jnp.eye(6)
    first = jnp.stack([axes[:, :3], axes[:, :3]])
    second = jnp.stack([axes[:, 3:], axes[:, 2:5]])
    moved = compiled(grassmann.exp)(first, compiled(grassmann.log)(first, second))
    outside = moved - grassmann.lift(second, grassmann.project(second, moved))
    np.testing.assert_allclose(outside, np.zeros((2, 6, 3)), atol=1e-6)


def differences(f, x, step=1e-6):
    """The derivative of f by every entry of x."""
    x = np.asarray(x)
    units = step * np.eye(x.size).reshape(-1, *x.shape)
    return np.reshape([(f(x + dx) - f(x - dx)) / (2 * step) for dx in units], x.shape)


@pytest.mark.parametrize(("m", "r"), [(7, 2), (5, 3)])
def test_the_distance_has_derivatives_by_both_bases(m, r):
    """Against differences of SciPy's angles, which are of the subspaces of any two matrices;
    forwards, backwards, under jit and vmap, over batch axes.
    """
    rng = np.random.default_rng(0)
    first, second = (np.linalg.qr(rng.standard_normal((2, m, r)))[0] for _ in range(2))
    change = rng.standard_normal((2, m, r))

    def reference(a, b):
        return np.linalg.norm(scipy.linalg.subspace_angles(a, b))

    expected = [
        np.stack([differences(lambda x, i=i: reference(x, second[i]), first[i]) for i in range(2)]),
        np.stack([differences(lambda x, i=i: reference(first[i], x), second[i]) for i in range(2)]),
    ]
    with jax.enable_x64(True):
        bases, changes = (jnp.asarray(first), jnp.asarray(second)), 2 * (jnp.asarray(change),)
        gradient = jax.grad(lambda *x: jnp.sum(grassmann.distance(*x)), argnums=(0, 1))
        of_batch, of_each = jax.jit(gradient)(*bases), jax.jit(jax.vmap(gradient))(*bases)
        _, forward = jax.jit(functools.partial(jax.jvp, grassmann.distance))(bases, changes)
    for found in (of_batch, of_each):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), list(found), expected)
    np.testing.assert_allclose(forward, np.sum((expected[0] + expected[1]) * change, axis=(-2, -1)), atol=1e-6)


def test_the_derivative_of_a_distance_of_zero_is_zero_and_that_at_a_right_angle_has_length_one():
    axes = jnp.eye(5)
    gradient = jax.grad(grassmann.distance)
    assert not np.any(gradient(axes[:, :2], axes[:, :2]))
    assert jnp.linalg.norm(gradient(axes[:, :2], axes[:, 2:4])) == pytest.approx(1, abs=1e-6)
