"""Captured energy, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import captured_energy
from tests.util import LEAVES, METHODS, SPLIT, basis_of, grads_like, long_but, make, matrix_of, run

BASES = [
    {"basis": "haar"}, {"basis": "gaussian"}, {"basis": "blocks", "blocks": 2}, {"basis": "columns"},
    {"basis": "cosine"}, {"basis_dtype": "bfloat16"},
]  # fmt: skip


@pytest.mark.parametrize("options", long_but(BASES[:3:2], BASES), ids=lambda x: "-".join(map(str, x.values())))
def test_energy_is_the_norm_of_the_projection_over_that_of_the_gradient(options):
    """Of a wide, a tall and a stacked leaf."""
    params = {"a": {"wide": jnp.ones((8, 16)), "tall": jnp.ones((16, 8))}, "stack": jnp.ones((3, 8, 16))}
    tx = optax.chain(optax.clip(1.0), make("grassjump", rank=4, **options))
    state, grads = run(tx, params, 2)[1][-1], grads_like(params, 7)
    energies = captured_energy(state, grads)
    assert set(energies) == {"a/wide", "a/tall", "stack"}
    bases, of_leaf = (
        basis_of(state),
        {"a/wide": grads["a"]["wide"], "a/tall": grads["a"]["tall"].T, "stack": grads["stack"]},
    )
    for path, grad in of_leaf.items():
        s = np.float64(matrix_of(bases["stack"] if path == "stack" else bases["a"][path[2:]]).astype(jnp.float32))
        norm = lambda x: np.linalg.norm(x, axis=(-2, -1))  # noqa: E731
        expected = norm(np.swapaxes(s, -1, -2) @ np.float64(grad)) / norm(np.float64(grad))
        np.testing.assert_allclose(energies[path].captured, expected, rtol=1e-2 if "basis_dtype" in options else 1e-5)
        assert energies[path].of_random == pytest.approx(0.5**0.5)


def test_a_random_subspace_captures_its_share_and_the_leading_one_more():
    params = jax.random.normal(jax.random.key(0), (64, 96)) @ jnp.diag(1 / jnp.arange(1.0, 97.0))
    captured = {}
    for name in ("grassjump", "galore"):
        tx = make(name, rank=16)
        _, state = tx.update(params, tx.init(params))
        captured[name] = captured_energy(state, params)[""]
    assert abs(captured["grassjump"].captured - captured["grassjump"].of_random) < 0.1
    assert captured["galore"].captured > 0.99


@pytest.mark.parametrize("name", [name for name in SPLIT if METHODS[name].shows_subspaces])
def test_every_method_whose_bases_are_stored_or_fixed_has_an_energy(name):
    """Under jit, beside leaves that are not split."""
    tx = make(name, **({"store_basis": True} if name in ("apollo", "apollo_mini") else {}))
    state = tx.init(LEAVES)
    found = jax.eval_shape(captured_energy, state, LEAVES)
    assert {path: x.captured.shape for path, x in found.items()}["stack"] == (3,)
    assert "bias" not in found


def folded_rows(m, rank):
    """S (m, r) of a fold in float64: means of neighbouring rows, the first blocks the longer."""
    block = np.sort(np.arange(m) % rank)
    s = np.float64(block[:, None] == np.arange(rank))
    return s / np.linalg.norm(s, axis=0)


@pytest.mark.parametrize(("name", "rank"), [("foam", 4), ("foam", 3), ("gwt", 5), ("gwt", 2)])
@pytest.mark.parametrize("moments", [None, "float8_e4m3fn"])
def test_the_energy_in_a_fold_is_that_of_its_matrix(name, rank, moments):
    """Before and after an update, of leaves beside one that is masked and one that is not split."""
    params = {"wide": jnp.ones((8, 20)), "tall": jnp.ones((20, 9)), "stack": jnp.ones((2, 3, 8, 20))}
    params |= {"bias": jnp.ones(8), "masked": jnp.ones((8, 20))}
    tx = make(name, rank=rank, mu_dtype=moments, nu_dtype=moments)
    tx = optax.masked(tx, {path: path != "masked" for path in params})
    before, grads = tx.init(params), grads_like(params, 7)
    after = jax.jit(tx.update)(grads, before)[1]
    for state in (before, after):
        energies = jax.jit(captured_energy)(state, grads)
        assert set(energies) == {"wide", "tall", "stack"}
        for path, energy in energies.items():
            g = np.float64(grads["tall"].T if path == "tall" else grads[path])
            s = folded_rows(g.shape[-2], rank)
            expected = np.linalg.norm(s.T @ g, axis=(-2, -1)) / np.linalg.norm(g, axis=(-2, -1))
            np.testing.assert_allclose(energy.captured, expected, rtol=1e-5)
            assert energy.of_random == pytest.approx((rank / len(s)) ** 0.5)


@pytest.mark.parametrize("size", [2.0**-100, 2.0**100])
def test_the_size_of_a_gradient_does_not_change_its_energy(size):
    """Even where its squares leave float32."""
    params = {"w": jax.random.normal(jax.random.key(0), (3, 8, 12))}
    tx = make("grassjump", rank=2)
    _, state = tx.update(params, tx.init(params))
    expected, found = (captured_energy(state, {"w": c * params["w"]}, key=0)["w"] for c in (1.0, size))
    assert expected.captured.min() > 0
    np.testing.assert_array_equal(found.captured, expected.captured)
    np.testing.assert_array_equal(found.of_best, expected.of_best)


def test_a_gradient_that_is_not_finite_has_an_energy_that_is_none():
    tx, params = make("grassjump", rank=2), jnp.ones((4, 6))
    _, state = tx.update(params, tx.init(params))
    for bad in (jnp.inf, jnp.nan):
        assert jnp.isnan(captured_energy(state, params.at[0, 0].set(bad))[""].captured)


def test_a_gradient_of_zero_has_no_energy():
    tx = make("galore", rank=2)
    params = jnp.zeros((4, 6))
    assert captured_energy(tx.init(params), params)[""].captured == 0


def test_a_state_before_its_first_update_has_captured_nothing():
    tx, params = make("grassjump", rank=2), jnp.ones((4, 6))
    assert captured_energy(tx.init(params), params)[""].captured == 0


def test_a_state_without_bases_says_how_to_store_them():
    params = {"w": jnp.ones((4, 6))}
    for tx in (
        make("grassjump", rank=2, store_basis=False),
        make("apollo", rank=2),
        make("frugal", rank=2, projection="columns"),
    ):
        with pytest.raises(ValueError, match="leaf 'w': it is made again at each step"):
            captured_energy(tx.init(params), params)
    for tx in (
        make("grassjump", rank=2, store_basis=True),
        make("apollo", rank=2, store_basis=True),
        make("frugal", rank=2, projection="random"),
        make("frugal", rank=2, projection="svd"),
    ):
        assert captured_energy(tx.init(params), params)["w"].captured == 0


def test_moments_of_8_bits_change_no_energy():
    params = {"w": jax.random.normal(jax.random.key(0), (3, 8, 12))}
    energies = []
    for dtype in (None, "float8_e4m3fn"):
        tx = make("grasswalk", rank=2, mu_dtype=dtype, nu_dtype=dtype)
        energies.append(captured_energy(tx.update(params, tx.init(params))[1], params)["w"].captured)
    np.testing.assert_array_equal(*energies)


def test_states_and_gradients_that_do_not_belong_together_are_errors():
    params = {"w": jnp.ones((4, 6))}
    with pytest.raises(ValueError, match="no subspace"):
        captured_energy(optax.adam(0.1).init(params), params)
    state = grass_optax.scale_by_galore(2).init(params)
    with pytest.raises(ValueError, match="no leaf 'w'"):
        captured_energy(state, {"v": params["w"]})
