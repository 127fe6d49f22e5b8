"""What must hold for every method, whatever it does: invariance and state."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from grass_optax import grassmann
from tests import tolerances
from tests.util import (
    LEAVES,
    METHODS,
    OF_CHEAP_KINDS,
    assert_same,
    basis_of,
    every_method,
    every_split_method,
    grads_like,
    is_finite,
    long_but,
    make,
    of_each_kind,
    ran,
    run,
)  # fmt: skip

drawing = of_each_kind(("grassjump", "apollo"), [n for n, m in METHODS.items() if m.draws_bases])


@of_each_kind(OF_CHEAP_KINDS)
def test_the_transpose_of_a_gradient_gets_the_transpose_of_its_update(name):
    """U(G^T) = U(G)^T with the dimension numbers swapped: orientation is no part of the method."""
    swapped = make(name, weight_dimension_numbers=output_first)
    updates, _ = ran(name, 9)
    state, update = swapped.init(transposed(LEAVES)), jax.jit(swapped.update)
    for t in range(9):
        u, state = update(transposed(grads_like(LEAVES, t)), state)
        assert_same(transposed(u), updates[t])


def output_first(params):
    return jax.tree.map(lambda x: MuonDimensionNumbers(-1, -2) if x.ndim > 1 else None, params)


def transposed(tree):
    return jax.tree.map(lambda x: jnp.swapaxes(x, -1, -2) if x.ndim > 1 else x, tree)


@of_each_kind(OF_CHEAP_KINDS)
def test_other_leaves_change_nothing_of_a_leaf(name):
    """Adding leaves, before or after, changes no other leaf."""
    alone = {"stack": LEAVES["stack"]}
    tx = make(name)
    state, update = tx.init(alone), jax.jit(tx.update)
    together, states = ran(name, 6)
    for t in range(6):
        u, state = update({"stack": grads_like(LEAVES, t)["stack"]}, state)
        assert_same(u["stack"], together[t]["stack"])
    if METHODS[name].splits:
        assert_same(basis_of(state)["stack"], basis_of(states[-1])["stack"])


@of_each_kind(("grassjump", "galore"), ["grassjump", "galore", "ldadam", "online_subspace_descent"])
def test_leaves_of_one_shape_are_refreshed_as_if_each_were_alone(name):
    """Matrices of one shape are refreshed together, each as if it were alone, those that are not
    finite included: by rules that read a key, the gradient, the inner state and a state of their
    own.
    """
    together = {name: jnp.ones((5, 9)) for name in ("a", "b", "c")}
    grads = [grads_like(together, t) for t in range(4)]
    grads[2]["b"] = grads[2]["b"].at[0, 0].set(jnp.nan)

    def run_of(names):
        tx = make(name, 2, 2, weight_dimension_numbers=matrix_axes)
        state, update, updates = tx.init({n: together[n] for n in names}), jax.jit(tx.update), []
        for g in grads:
            u, state = update({n: g[n] for n in names}, state)
            updates.append(u["a"])
        return updates, basis_of(state)["a"]

    chex.assert_trees_all_close(run_of("abc"), run_of("a"), rtol=1e-4, atol=1e-5)


@drawing
def test_keys_and_leaves_and_matrices_and_refreshes_draw_apart(name):
    """A basis is a function of key, leaf, matrix and refresh; nothing else of it is random."""
    options = dict.fromkeys(METHODS[name].needs, 0)  # golore draws from its random_start on
    m, n = 12, 16  # large enough that no two draw the same axes
    params = {"a": jnp.ones((m, n)), "b": jnp.ones((m, n)), "stack": jnp.ones((2, 2, m, n))}
    grad = grads_like(jnp.ones((m, n)), 0)
    same = jax.tree.map(lambda x: jnp.broadcast_to(grad, x.shape), params)

    @jax.jit
    def update(key, state):
        return make(name, 5, gap=1, key=key, **options).update(same, state)

    def two_updates(key):
        first, state = update(key, make(name, 5, gap=1, **options).init(params))
        return [x for u in (first, update(key, state)[0]) for leaf in u.values() for x in np.reshape(leaf, (-1, m, n))]

    drawn = two_updates(7) + two_updates(8)
    assert len(drawn) == 2 * 2 * 6
    assert all(not np.array_equal(drawn[i], drawn[j]) for i in range(len(drawn)) for j in range(i))
    chex.assert_trees_all_equal(two_updates(7), drawn[:12])


# A residual per column, without lift, dense.
@of_each_kind(("grassjump", "apollo_mini"), ["grassjump", "apollo_mini", "ldadam"])
def test_multi_axis_kernels_are_their_matrices(name):
    """A DenseGeneral kernel (d, heads, h) is its (d, heads * h) matrix; a batch axis may stand
    anywhere.
    """
    flat = make(name, 2, 3, weight_dimension_numbers=MuonDimensionNumbers(0, 1))
    heads = make(name, 2, 3, weight_dimension_numbers=MuonDimensionNumbers(0, (1, 2)))
    updates = run(flat, jnp.zeros((5, 12)), 7)[0]
    state, update = heads.init(jnp.zeros((5, 3, 4))), jax.jit(heads.update)
    for t in range(7):
        u, state = update(grads_like(jnp.zeros((5, 12)), t).reshape(5, 3, 4), state)
        assert_same(u.reshape(5, 12), updates[t])
    middle = make(name, 2, 3, weight_dimension_numbers=MuonDimensionNumbers(0, 2))
    split = optax.tree_utils.tree_get(middle.init(jnp.zeros((5, 3, 12))), "SplitState")
    assert split.inner_state.mu.shape == (3, 1 if name == "apollo_mini" else 2, 12)


@pytest.mark.parametrize(
    ("dtype", "name"),
    long_but(
        [("float32", "galore"), *(("bfloat16", name) for name in OF_CHEAP_KINDS)],
        itertools.product(("float32", "bfloat16"), METHODS),
    ),
)
def test_state_is_a_fixed_point_of_update(dtype, name):
    params = jax.tree.map(lambda x: x.astype(dtype), LEAVES)
    narrow = {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}
    half = {"mu_dtype": "bfloat16"} | ({"basis_dtype": "bfloat16"} if "basis_dtype" in METHODS[name].parameters else {})
    for options in ({}, half, narrow):
        tx = make(name, **options)
        state = jax.eval_shape(tx.init, params)
        with jax.numpy_dtype_promotion("standard"):  # Optax's Adam mixes types under mu_dtype
            updates, after = jax.eval_shape(tx.update, params, state, params)
        chex.assert_trees_all_equal_structs(state, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        # What Orbax and Flax cannot save.
        assert all(x.size > 0 for x in jax.tree.leaves(state))
        assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state))


@every_method
def test_resumption_is_bit_exact(name):
    """State taken out as NumPy arrays at t = 5 and put back: the same updates to the bit, across
    the refreshes at 5 and 9. All by one compiled program, so that no step changes the type of
    anything.
    """
    updates, states = ran(name, 11)
    saved = jax.tree.map(lambda x: np.array(x), states[4])
    again, _ = ran(name, 6, start=5, state=jax.tree.map(jnp.asarray, saved))
    chex.assert_trees_all_equal(again, updates[5:])


@every_split_method
@pytest.mark.parametrize("bad_step", [0, 4])
def test_basis_survives_without_help(name, bad_step):
    """Without apply_if_finite moments may become NaN, the basis never does; orthonormal ones stay
    so.
    """
    _, states = ran(
        name, 10, change=lambda t, grads: jax.tree.map(lambda g: g * jnp.nan, grads) if t == bad_step else grads
    )
    assert is_finite(basis_of(states[-1]))
    if name not in ("online_subspace_descent", "coap"):
        for basis in jax.tree.leaves(basis_of(states[-1])):
            assert jnp.max(grassmann.orthonormality_error(basis)) < tolerances.ORTHONORMAL32


@every_method
def test_zero_gradients_and_zero_columns_stay_zero_and_spoil_nothing(name):
    def change(t, grads):
        return jax.tree.map(jnp.zeros_like, grads) if t < 2 else grads | {"wide": grads["wide"].at[:, 3].set(0.0)}

    updates, states = ran(name, 9, change=change)
    for t, update in enumerate(updates):
        assert is_finite(update)
        assert jnp.all(update["wide"][:, 3] == 0)
        assert (jnp.linalg.norm(update["wide"]) > 0) == (t >= 2)
    # A zero first gradient must not lock the recovered part: it is there, not at a norm growing by
    # 1 % from nothing.
    basis = basis_of(states[-1])["wide"] if METHODS[name].splits else None
    if METHODS[name].recovers and jax.tree.leaves(basis):
        assert jnp.linalg.norm(grassmann.to_tangent(basis, updates[-1]["wide"])) > 0.1
    elif METHODS[name].recovers:
        assert jnp.linalg.norm(updates[-1]["wide"]) > 0.1


def matrix_axes(params):
    return jax.tree.map(lambda x: MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)


@every_split_method
def test_leaves_of_one_element_get_adam(name):
    """No subspace is smaller than these: they get Adam, here one whose first step is the sign."""
    params = {"scalar": jnp.ones(()), "one": jnp.ones(1), "row": jnp.ones((1, 1))}
    tx = make(name, 1, 2, weight_dimension_numbers=None)
    grads = grads_like(params, 0)
    updates, _ = tx.update(grads, tx.init(params))
    assert_same(updates, jax.tree.map(jnp.sign, grads), tolerances.TRACED_B2)
