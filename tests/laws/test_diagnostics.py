"""What a state says of its subspaces, for every method that splits its leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from optax.contrib import MuonDimensionNumbers

import grass_optax
from tests.util import (
    LEAVES,
    METHODS,
    SPLIT,
    compiled_method,
    grads_like,
    long_but,
    make,
    matrix_of,
    run,
)

SHOWN = [name for name in SPLIT if METHODS[name].shows_subspaces]  # apollo's if they are stored
LIMITED = [name for name in SHOWN if "max_norm_growth" in METHODS[name].parameters and name != "gwt"]  # the residual
PATHS = {"wide", "head", "stack"}


@functools.cache
def two_states(name):
    """The states around an update, and its gradient; for apollo with bases that are stored."""
    if name.startswith("apollo"):
        _, states = run(make(name, store_basis=True), LEAVES, 5)
    else:
        tx, update = compiled_method(name)
        states = [tx.init(LEAVES)]
        for t in range(5):
            states.append(update(grads_like(LEAVES, t), states[-1])[1])
    return states[-2], states[-1], grads_like(LEAVES, 4)


def numbers(before, after, grads):
    """Everything that can be asked of any method."""
    return (
        grass_optax.captured_energy(after, grads, key=0),
        grass_optax.error_tangent(after, grads, k=2),
        grass_optax.subspace_change(before, after),
    )


@pytest.mark.parametrize("name", long_but(["grasswalk", "galore", "foam"], SHOWN))
def test_every_method_can_be_asked_under_jit(name):
    """Against float64, with a stack, a bias that is not split, and a refresh in between."""
    before, after, grads = two_states(name)
    energy, tangent, change = jax.jit(numbers)(before, after, grads)
    assert set(energy) == set(tangent) == set(change) == PATHS
    for path in PATHS:
        s, old = (
            np.float64(matrix_of(optax.tree_utils.tree_get(state, "SplitState").bases[path]))
            for state in (after, before)
        )
        g = np.float64(grads[path])
        norm = np.linalg.norm(g, axis=(-2, -1))
        captured = np.linalg.norm(np.swapaxes(s, -1, -2) @ g, axis=(-2, -1)) / norm
        np.testing.assert_allclose(energy[path].captured, captured, rtol=1e-5)
        best = np.linalg.norm(np.linalg.svd(g, compute_uv=False)[..., : s.shape[-1]], axis=-1) / norm
        assert np.all(energy[path].of_best <= best + 1e-6)
        # the worst are Gaussian rows, whose singular values hardly differ; half of the steps: 0.076
        np.testing.assert_allclose(energy[path].of_best, best, rtol=0.06)
        q = np.linalg.qr(s)[0]
        a = np.swapaxes(q, -1, -2) @ g
        expected = np.linalg.norm(-2 * (g - q @ a) @ np.swapaxes(a, -1, -2), axis=(-2, -1))
        np.testing.assert_allclose(tangent[path].norm, expected, rtol=1e-4, atol=1e-5 * np.max(norm) ** 2)
        overlap = np.linalg.norm(np.swapaxes(q, -1, -2) @ np.linalg.qr(old)[0], axis=(-2, -1)) ** 2 / s.shape[-1]
        np.testing.assert_allclose(change[path].overlap, overlap, atol=1e-5)


@pytest.mark.parametrize("name", long_but(["grassjump"], LIMITED))
def test_every_method_that_recovers_can_be_asked_what(name):
    before, after, grads = two_states(name)
    of = jax.jit(grass_optax.recovered_residual)(before, after, grads, max_norm_growth=1.01)
    assert set(of) == PATHS
    assert of["stack"].limited.shape == of["stack"].relative.shape == (3,)
    assert np.all(np.asarray(of["stack"].relative) > 0)


@pytest.mark.long
def test_a_mask_and_a_box_hide_no_leaf_and_a_stack_is_its_matrices():
    """The best subspace too: its start is that of the matrix, in a stack or in a list."""
    params = {"stack": jnp.ones((2, 6, 16)), "box": jnp.ones((6, 16)), "masked": jnp.ones((6, 6))}
    tx = optax.masked(make("grassjump"), {"stack": True, "box": True, "masked": False})
    grads = grads_like(params, 0)
    boxed = grads | {"box": linen.Partitioned(grads["box"], (None, None))}
    before = tx.init(params | {"box": linen.Partitioned(params["box"], (None, None))})
    after = tx.update(boxed, before)[1]
    in_stack = numbers(before, after, boxed)
    assert [set(of) for of in in_stack] == [{"stack", "box"}] * 3
    apart, tx = {"stack": list(grads["stack"]), "box": grads["box"]}, make("grassjump")
    in_list = numbers(tx.init(apart), tx.update(apart, tx.init(apart))[1], apart)
    for of, like in zip(in_list, in_stack, strict=True):
        for field, trailing in (("captured", 0), ("of_best", 0), ("singular_values", 1), ("angles", 1)):
            if hasattr(of["box"], field):
                one, other = (
                    grass_optax.by_layer({path: getattr(x, field) for path, x in found.items()}, trailing)
                    for found in (of, like)
                )
                assert list(one["stack"]) == list(other["stack"]) == [(0,), (1,)]
                jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), one, other)


def test_the_axes_of_a_kernel_are_those_of_its_dimension_numbers():
    conv, flat = jax.random.normal(jax.random.key(0), (3, 2, 40)), MuonDimensionNumbers((0, 1), 2)
    tx = grass_optax.scale_by_grassjump(2, weight_dimension_numbers={"w": flat})
    state = tx.update({"w": conv}, tx.init({"w": conv}))[1]
    matrix, tx = conv.reshape(6, 40), grass_optax.scale_by_grassjump(2)
    like = tx.update({"w": matrix}, tx.init({"w": matrix}))[1]
    of, expected = (grass_optax.error_tangent(*x)["w"] for x in ((state, {"w": conv}), (like, {"w": matrix})))
    jax.tree.map(np.testing.assert_array_equal, of, expected)
