"""Leaves as matrices: the round trip over all shapes, which leaves are split, and every error."""

import dataclasses
import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import layouts


@st.composite
def leaves(draw):
    """A shape, and disjoint non-empty reduction and output axes of it, some of them counted from
    the end.
    """
    ndim = draw(st.integers(2, 5))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)))
    order = draw(st.permutations(range(ndim)))
    reduction = draw(st.integers(1, ndim - 1))
    output = draw(st.integers(1, ndim - reduction))
    from_end = draw(st.booleans())
    axes = [i - ndim if from_end else i for i in order]
    return shape, MuonDimensionNumbers(tuple(axes[:reduction]), tuple(axes[reduction : reduction + output]))


def numbered(shape):
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


@settings(max_examples=25, deadline=None)
@given(leaves())
def test_a_leaf_comes_back_from_its_matrices(leaf):
    shape, dims = leaf
    x = numbered(shape)
    layout = layouts.matrix_layouts(x, dims)
    matrix = layout.to_matrix(x)
    assert matrix.shape == (*layout.batch, layout.m, layout.n)
    assert layout.m <= layout.n
    np.testing.assert_array_equal(layout.from_matrix(matrix), x)
    assert layout == layouts.matrix_layouts(jax.ShapeDtypeStruct(shape, jnp.float32), dims)
    assert hash(layout) == hash(layouts.matrix_layouts(x, dims))
    assert jax.tree.leaves(layout) == []


@settings(max_examples=15, deadline=None)
@given(leaves())
def test_column_sums_are_taken_in_the_leaf(leaf):
    x = numbered(leaf[0])
    layout = layouts.matrix_layouts(x, leaf[1])
    np.testing.assert_array_equal(layout.sum_over_m(x), np.sum(layout.to_matrix(x), axis=-2, keepdims=True))


def test_the_shorter_side_is_first_and_a_square_keeps_its_input_axis_there():
    x = jnp.arange(6.0).reshape(2, 3)
    for a in (x, x.T):
        np.testing.assert_array_equal(layouts.matrix_layouts(a).to_matrix(a), x)
    square = jnp.arange(4.0).reshape(2, 2)
    for dims, expected in ((MuonDimensionNumbers(0, 1), square), (MuonDimensionNumbers(1, 0), square.T)):
        np.testing.assert_array_equal(layouts.matrix_layouts(square, dims).to_matrix(square), expected)


def test_by_default_matrices_are_split_but_no_embeddings_and_heads():
    matrix, vector, stack = jnp.ones((8, 12)), jnp.ones(12), jnp.ones((2, 8, 12))
    params = {
        "embed": {"embedding": matrix},
        "token_Embeddings": matrix,
        "wte": matrix,
        "lm_head": {"kernel": matrix},
        "logits": matrix,
        "attention": {"q": {"kernel": matrix}, "heads": matrix, "output": matrix, "bias": vector},
        "small": jnp.ones((4, 100)),
        "stack": stack,
        "list": [matrix, vector],
    }
    labels = layouts.split_labels(rank=4)(params)
    split = {layouts.leaf_path(path) for path, label in jax.tree.leaves_with_path(labels) if label == "split"}
    assert split == {"attention/q/kernel", "attention/heads", "attention/output", "list/0"}


@pytest.mark.parametrize(
    "dims",
    [
        {"a": MuonDimensionNumbers(1, 2), "b": {"c": None, "d": MuonDimensionNumbers()}},
        {"a": MuonDimensionNumbers(1, 2), "b": MuonDimensionNumbers()},
        lambda params: jax.tree.map(lambda x: MuonDimensionNumbers(-2, -1), params),
        MuonDimensionNumbers(-2, -1),
    ],
    ids=["tree", "prefix", "function", "one for all"],
)
def test_dimension_numbers_say_which_leaves_are_split(dims):
    params = {"a": jnp.ones((3, 8, 12)), "b": {"c": jnp.ones((5, 5)), "d": jnp.ones((8, 12))}}
    expected = {"a": "split", "b": {"c": "adam", "d": "split"}}  # c has no dimensions, or nothing to save
    assert layouts.split_labels(4, dims)(params) == expected
    state = grass_optax.grassjump(0.1, rank=4, weight_dimension_numbers=dims).init(params)
    basis = optax.tree_utils.tree_get(state, "basis")
    assert basis["a"].shape == (3, 8, 4)
    assert basis["b"]["d"].shape == (8, 4)
    assert basis["b"]["c"] == optax.MaskedNode()


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Callable:
    """A tree that can be called, as the modules of Equinox are."""

    w: Any
    v: Any

    def __call__(self, x):
        raise AssertionError("a tree is no function of params")


def test_a_tree_that_can_be_called_is_a_tree():
    params = Callable(jnp.ones((8, 12)), jnp.ones((8, 12)))
    tx = grass_optax.grassjump(
        0.1,
        rank=2,
        weight_decay=0.5,
        mask=Callable(True, False),
        weight_dimension_numbers=Callable(layouts.MATRIX, None),
    )
    state = tx.init(params)
    basis = optax.tree_utils.tree_get(state, "basis")
    assert basis.w.shape == (8, 2)
    assert basis.v == optax.MaskedNode()
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    np.testing.assert_allclose(updates.w, -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates.v, 0)


@pytest.mark.parametrize("rank", [1, 16, 128])
def test_what_is_split_saves_memory(rank):
    """At every size around the limit, square or not."""
    for m, n in itertools.product((rank + 1, 3 * rank // 2, 3 * rank // 2 + 1, 2 * rank), (1, 3)):
        params = {"w": jax.ShapeDtypeStruct((m, n * m), jnp.float32)}
        label = layouts.split_labels(rank)(params)["w"]
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that nothing is split
            report = grass_optax.memory_report(grass_optax.scale_by_galore(rank), params)
        assert label == ("split" if rank * (m + 2 * n * m) < 2 * n * m * m else "adam")
        assert report.leaves[0].state_bytes <= report.leaves[0].adam_bytes


def test_nnx_state_is_the_same_tree_as_plain_dicts():
    """Same labels, same bases, same updates: a checkpointed run may change its container."""
    layer = nnx.Linear(6, 16, rngs=nnx.Rngs(0))
    state = nnx.split(layer, nnx.Param)[1]
    plain = nnx.to_pure_dict(state)
    tx = grass_optax.scale_by_grassjump(rank=2)
    grads = jax.tree.map(jnp.ones_like, state)
    from_state, opt_state = tx.update(grads, tx.init(state), state)
    from_dict, _ = tx.update(nnx.to_pure_dict(grads), tx.init(plain), plain)
    assert jnp.array_equal(nnx.to_pure_dict(from_state)["kernel"], from_dict["kernel"])
    assert len(jax.tree.leaves(optax.tree_utils.tree_get(opt_state, "basis"))) == 1


W = jnp.ones((8, 12))
ERRORS = {
    "rank 0": (lambda: grass_optax.grassjump(0.1, rank=0), ValueError, "rank is 0; give 1 or more"),
    "rank no int": (lambda: grass_optax.grassjump(0.1, rank=2.5), ValueError, "rank is 2.5.*must be a Python integer"),
    "gap 0": (lambda: grass_optax.grasswalk(0.1, update_proj_gap=0), ValueError, "update_proj_gap is 0"),
    "gap < 0": (lambda: grass_optax.grassjump(0.1, update_proj_gap=-5), ValueError, "update_proj_gap is -5"),
    "walk_rank 0": (lambda: grass_optax.grasswalk(0.1, walk_rank=0), ValueError, "walk_rank is 0"),
    "walk_rank no int": (lambda: grass_optax.grasswalk(0.1, walk_rank=1.5), ValueError, "walk_rank is 1.5.*integer"),
    "key of another kind": (
        lambda: grass_optax.grassjump(0.1, key=jax.random.key(7, impl="rbg")),
        ValueError, "rbg implementation.*threefry2x32",
    ),
    "key a float": (lambda: grass_optax.grassjump(0.1, key=0.5), ValueError, "key is 0.5. Give an int"),
    "key no integer": (lambda: grass_optax.grassjump(0.1, key=jnp.float32(3)), ValueError, "key is .*float32"),
    "walk_rank > m - r": (
        lambda: grass_optax.grasswalk(0.1, rank=5, walk_rank=4).init(W), ValueError, r"min\(r, m - r\) = 3",
    ),
    "axis out of range": (
        lambda: grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers=MuonDimensionNumbers(1, 2)).init({"w": W}),
        ValueError, "leaf 'w' of shape .8, 12.*axes are 0 to 1",
    ),
    "axis twice": (
        lambda: grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers=MuonDimensionNumbers(0, -2)).init({"w": W}),
        ValueError, "'w'.*none twice",
    ),
    "no axis": (
        lambda: grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers=MuonDimensionNumbers((), 1)).init({"w": W}),
        ValueError, "'w'.*one axis or more",
    ),
    "other tree": (
        lambda: grass_optax.grassjump(0.1, weight_dimension_numbers={"v": None}).init({"w": W}),
        ValueError, "weight_dimension_numbers must be a tree like params or a prefix",
    ),
    "not dimension numbers": (
        lambda: grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers={"w": (0, 1)}).init({"w": W}),
        ValueError, "weight_dimension_numbers must be|needed is an optax.contrib.MuonDimensionNumbers",
    ),
    "integers": (
        lambda: grass_optax.grassjump(0.1).init({"w": W.astype(int)}),
        TypeError, "'w'.*int32 is not floating point.*optax.masked",
    ),
    "complex": (
        lambda: grass_optax.grassjump(0.1, rank=2).init({"w": W.astype(complex)}),
        TypeError, "'w'.*is complex",
    ),
    "split of a vector": (
        lambda: grass_optax.split_by_subspace(
            grass_optax.subspaces.random_jump(), optax.identity(), grass_optax.transport.keep(), None, rank=2,
            update_proj_gap=3
        ).init({"b": jnp.ones(3)}),
        ValueError, "'b'.*not a matrix.*optax.partition",
    ),
    "split at too large a rank": (
        lambda: grass_optax.split_by_subspace(
            grass_optax.subspaces.random_jump(), optax.identity(), grass_optax.transport.keep(), None, rank=9,
            update_proj_gap=3
        ).init({"w": W}),
        ValueError, "rank is 9, but leaf 'w' is a matrix of 8 x 12",
    ),
    "a named matrix at too large a rank": (
        lambda: grass_optax.grassjump(0.1, rank=9, weight_dimension_numbers={"w": layouts.MATRIX}).init({"w": W}),
        ValueError, "'w'.* of 8 x 12 has no subspace of rank 9.*give this leaf None",
    ),
    "walk not stored": (
        lambda: grass_optax.split_by_subspace(
            grass_optax.subspaces.random_walk(), optax.identity(), grass_optax.transport.keep(), None, rank=2,
            update_proj_gap=3, store_basis=False,
        ),
        ValueError, "store_basis=False.*read nothing but the key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", ERRORS)
def test_a_mistake_is_an_error_that_says_what_to_do(mistake, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse first
    build, error, message = ERRORS[mistake]
    with pytest.raises(error, match=f"(?s){message}"):
        build()


def test_traced_rank_says_what_to_do():
    tx = optax.inject_hyperparams(grass_optax.grassjump)(0.1, rank=2)
    with pytest.raises(ValueError, match="rank is .*static_args"):
        jax.jit(tx.init)({"w": W})


def test_complex_and_integer_leaves_elsewhere_are_named():
    """A complex leaf that Adam takes is no mistake; an integer leaf is one wherever it is."""
    tx = grass_optax.grassjump(0.1, rank=2, weight_dimension_numbers={"w": MuonDimensionNumbers(), "z": None})
    tx.init({"w": W, "z": jnp.ones(3, complex)})
    with pytest.raises(TypeError, match="'z'"):
        tx.init({"w": W, "z": jnp.ones(3, int)})
