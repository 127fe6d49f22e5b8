"""Boxes of Flax, and trees with and without them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from grass_optax._trees.boxes import boxed_like, unboxed, without_boxes


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    """One of its fields has the name of a box's."""

    query: Any
    value: Any


def variable(content):
    return nnx.Param(content, out_sharding=("a", None), eager_sharding=False)


def partitioned(content):
    return linen.Partitioned(content, names=("a", None))


ARRAY = jnp.ones((2, 3))
BOXES = pytest.mark.parametrize("box", [variable, partitioned, lambda content: variable(partitioned(content))])
CONTENTS = {
    "an array": ARRAY,
    "a shape": jax.ShapeDtypeStruct((2, 3), jnp.float32),
    "what a mask leaves": optax.MaskedNode(),
    "a tree": {"a": ARRAY, "b": (ARRAY, None)},
}


@BOXES
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_box_is_replaced_by_its_content(box, content):
    tree = {"x": [box(content), None], "y": Attention(box(content), ARRAY)}
    plain = {"x": [content, None], "y": Attention(content, ARRAY)}
    assert jax.tree.structure(unboxed(tree)) == jax.tree.structure(plain)
    assert all(a is b for a, b in zip(jax.tree.leaves(unboxed(tree)), jax.tree.leaves(plain), strict=True))
    assert jax.tree.structure(boxed_like(plain, tree)) == jax.tree.structure(tree)


@pytest.mark.parametrize(
    "tree",
    [ARRAY, None, (), {"value": ARRAY}, Attention(ARRAY, ARRAY), optax.ScaleByScheduleState(ARRAY), optax.MaskedNode()],
    ids=lambda tree: type(tree).__name__,
)
def test_a_tree_without_boxes_stays_as_it_is(tree):
    assert jax.tree.structure(unboxed(tree)) == jax.tree.structure(boxed_like(tree, tree)) == jax.tree.structure(tree)


@BOXES
def test_what_stands_for_an_array_may_be_a_tree(box):
    """Such as the state of a rule, or the dimension numbers of a leaf."""
    result = boxed_like({"x": (1, {"a": 2}), "y": optax.MaskedNode()}, {"x": box(ARRAY), "y": ARRAY})
    assert unboxed(result) == {"x": (1, {"a": 2}), "y": optax.MaskedNode()}


@BOXES
def test_a_transformation_sees_no_box_and_returns_updates_in_them(box):
    seen = []

    def init(params):
        seen.append(params)
        return optax.TraceState(params)

    def update(updates, state, params=None):
        seen.extend((updates, state.trace, params))
        return jax.tree.map(lambda g, p: g + p, updates, params), state

    tx = without_boxes(optax.with_extra_args_support(optax.GradientTransformation(init, update)))
    params = {"w": box(ARRAY)}
    updates, state = tx.update(params, tx.init(params), params)
    assert all(jax.tree.structure(tree) == jax.tree.structure({"w": ARRAY}) for tree in (*seen, state.trace))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    np.testing.assert_array_equal(jax.tree.leaves(updates)[0], 2)
