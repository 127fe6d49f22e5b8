"""The tangent of the subspace error and the change of a subspace, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from grass_optax import error_tangent, subspace_change
from grass_optax.bases import Fold
from tests.util import basis_of, grads_like, long_but, make, matrix_of, run

PARAMS = {"tall": jnp.ones((16, 8)), "stack": jnp.ones((2, 8, 16)), "bias": jnp.ones(3)}
BASES = [
    {"basis": "haar"}, {"basis": "gaussian"}, {"basis": "blocks", "blocks": 2}, {"basis": "columns"},
    {"basis": "cosine"},
]  # fmt: skip
every_basis = pytest.mark.parametrize(
    "options", long_but(BASES[1:3], BASES), ids=lambda x: "-".join(map(str, x.values()))
)


def orthonormal(basis):
    return np.linalg.qr(np.float64(matrix_of(basis)))[0]


@every_basis
def test_the_tangent_is_the_derivative_of_the_error_by_the_subspace(options):
    tx = make("grassjump", rank=4, **options)
    state, grads = run(tx, PARAMS, 1)[1][-1], grads_like(PARAMS, 7)
    tangents = jax.jit(error_tangent, static_argnames="k")(state, grads, k=3)
    assert set(tangents) == {"tall", "stack"}
    for path in tangents:
        s = orthonormal(basis_of(state)[path])
        g = np.float64(grads["tall"].T if path == "tall" else grads["stack"])
        a = np.swapaxes(s, -1, -2) @ g
        values = np.linalg.svd(-2 * (g - s @ a) @ np.swapaxes(a, -1, -2), compute_uv=False)
        norm = np.linalg.norm(values, axis=-1)
        np.testing.assert_allclose(tangents[path].singular_values, values[..., :3], rtol=1e-3)
        np.testing.assert_allclose(tangents[path].norm, norm, rtol=1e-5)
        np.testing.assert_allclose(tangents[path].relative, norm / np.linalg.norm(g, axis=(-2, -1)) ** 2, rtol=1e-5)


def test_the_tangent_points_away_from_the_better_subspace():
    """Minus the tangent of the formula, a small step along the geodesic captures more, by half of
    its squared norm to first order.
    """
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = jnp.asarray(rng.standard_normal((6, 9)))
        tx = make("grassjump", rank=2)
        state = tx.update(params, tx.init(params))[1]
        s, g = np.asarray(basis_of(state)), np.asarray(params)
        norm = float(error_tangent(state, params)[""].norm)
    a = s.T @ g
    h = -2 * (g - s @ a) @ a.T
    assert np.linalg.norm(h) == pytest.approx(norm, rel=1e-9)
    step = 1e-6
    moved = np.linalg.qr(s - step * h)[0]
    gained = np.linalg.norm(moved.T @ g) ** 2 - np.linalg.norm(a) ** 2
    assert gained == pytest.approx(step * norm**2, rel=1e-3)


def test_the_relative_tangent_does_not_depend_on_the_size_of_the_gradient():
    grads = jax.random.normal(jax.random.key(0), (8, 12))
    state = run(make("grassjump", rank=4), grads, 1)[1][-1]
    tangent_of = jax.jit(lambda grads: error_tangent(state, grads, k=2)[""])
    of_one = tangent_of(grads)
    assert of_one.relative > 0.1
    for size in (1e30, 1e15, 1e-25):
        tangent = tangent_of(size * grads)
        np.testing.assert_allclose(tangent.relative, of_one.relative, rtol=1e-5)
        with np.errstate(over="ignore", under="ignore"):  # quadratic, so not all are numbers of float32
            norm, values = (np.float32(np.float64(x) * size**2) for x in (of_one.norm, of_one.singular_values))
        np.testing.assert_allclose(tangent.norm, norm, rtol=1e-5)
        np.testing.assert_allclose(tangent.singular_values, values, rtol=1e-3)
    for broken in (jnp.nan, jnp.inf):  # and is seen where there is none
        assert np.isnan(tangent_of(grads.at[1, 2].set(broken)).relative)


def test_the_leading_subspace_has_no_tangent():
    params = jax.random.normal(jax.random.key(0), (12, 20)) @ jnp.diag(1 / jnp.arange(1.0, 21.0))
    tx = make("galore", rank=4)
    state = tx.update(params, tx.init(params))[1]
    assert error_tangent(state, params)[""].relative < 1e-5
    assert error_tangent(tx.init(params), params)[""].relative == 0  # there is no subspace yet
    zero = error_tangent(state, 0 * params)[""]
    assert not np.any(zero.singular_values)
    assert zero.relative == 0


@every_basis
def test_the_change_is_that_of_the_subspaces(options):
    tx = make("grassjump", rank=4, gap=1, **options)
    first, second = run(tx, PARAMS, 2)[1]
    changes = jax.jit(subspace_change)(first, second)
    for path in ("tall", "stack"):
        pairs = (orthonormal(basis_of(state)[path]).reshape(-1, 8, 4) for state in (first, second))
        for old, new, angles, overlap in zip(
            *pairs, changes[path].angles.reshape(-1, 4), changes[path].overlap.reshape(-1), strict=True
        ):
            np.testing.assert_allclose(angles, scipy.linalg.subspace_angles(old, new)[::-1], atol=2e-3)
            assert overlap == pytest.approx(np.linalg.norm(old.T @ new) ** 2 / 4, abs=1e-5)


def test_a_fold_has_the_tangent_of_its_matrix_and_does_not_change():
    """The same fold for all matrices of a stack."""
    tx, grads = make("gwt", rank=3), grads_like(PARAMS, 7)
    before = tx.init(PARAMS)
    after = tx.update(grads, before)[1]
    tangents, changes = (
        jax.jit(f)(*x) for f, x in ((error_tangent, (after, grads)), (subspace_change, (before, after)))
    )
    s = np.float64(matrix_of(Fold(8, 3)))
    for path, batch in (("tall", ()), ("stack", (2,))):
        g = np.float64(grads["tall"].T if path == "tall" else grads["stack"])
        a = s.T @ g
        values = np.linalg.svd(-2 * (g - s @ a) @ np.swapaxes(a, -1, -2), compute_uv=False)
        np.testing.assert_allclose(tangents[path].norm, np.linalg.norm(values, axis=-1), rtol=1e-5)
        np.testing.assert_allclose(tangents[path].singular_values, values[..., :3], rtol=1e-3)
        np.testing.assert_allclose(changes[path].overlap, np.ones(batch), rtol=1e-6)
        np.testing.assert_allclose(changes[path].angles, np.zeros((*batch, 3)), atol=1e-6)


def test_states_that_do_not_belong_together_are_errors():
    tx = make("grassjump", rank=2)
    with pytest.raises(ValueError, match="two states of one run"):
        subspace_change(tx.init({"w": jnp.ones((4, 6))}), tx.init({"v": jnp.ones((4, 6))}))
    with pytest.raises(ValueError, match="no subspace"):
        subspace_change(*2 * [optax.adam(0.1).init(PARAMS)])
