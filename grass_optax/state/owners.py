"""Which parameter does each array of an optimizer's state belong to?

Names do not say: a parameter may be called `mu`, and so may a field of a state. But what a state
knows of every parameter is in trees like the params, so the place in such a tree says it.
"""

from collections.abc import Iterator
from typing import Any

import jax
import optax

from grass_optax._split.records import SplitState
from grass_optax._trees.matrix_layout import is_layout

Path = tuple[Any, ...]
_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


def owners_of(state: optax.OptState, params: optax.Params) -> dict[Path, Path]:
    """Return the path of its parameter for the path of every state array that has one.

    These arrays are in a tree of the structure of params, in which `optax.masked` may have hidden
    parts, or in the bases or the state of a rule of a split. A single array as params owns all but
    the count of a split.
    """
    places = {path for path, _ in jax.tree.leaves_with_path(params)}
    return dict(_owned((), state, params, places))


def parts_of(state: Any, kind: type) -> Iterator[tuple[Path, Any]]:
    """The states of one type in a state, with their paths."""
    for path, x in jax.tree.leaves_with_path(state, is_leaf=lambda x: isinstance(x, kind)):
        if isinstance(x, kind):
            yield path, x


def _owned(start: Path, node: Any, params: optax.Params, places: set[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of paths for a part of a state, which is at the path `start`."""
    if isinstance(node, SplitState):
        for field in ("inner_state", "residual_state"):
            path = (*start, jax.tree_util.GetAttrKey(field))
            yield from _owned(path, getattr(node, field), params, places)
        split = places & {path for path, _ in jax.tree.leaves_with_path(node.layouts, is_leaf=is_layout)}
        for field in ("basis", "rule_state"):  # whose leaves may be trees
            for path, _ in jax.tree.leaves_with_path(getattr(node, field)):
                for end in range(len(path) + 1):
                    if path[:end] in split:
                        yield (*start, jax.tree_util.GetAttrKey(field), *path), path[:end]
    elif isinstance(node, _INJECTED):  # a dict of hyperparameters can look like a dict of scalars
        yield from _owned((*start, jax.tree_util.GetAttrKey("inner_state")), node.inner_state, params, places)
    elif _is_like(node, params, places):
        yield from (((*start, *path), path) for path, _ in jax.tree.leaves_with_path(node))
    else:
        for path, child in jax.tree.leaves_with_path(node, is_leaf=lambda x: x is not node):
            if path:
                yield from _owned((*start, *path), child, params, places)


def _is_like(node: Any, params: optax.Params, places: set[Path]) -> bool:
    """Whether a part of a state is a tree like params, with an array for each leaf or subtree that
    is not hidden.
    """
    structure: Any = jax.tree.structure(node, is_leaf=_is_masked)
    try:
        structure.flatten_up_to(params)
    except ValueError:
        return False
    return all(path in places for path, _ in jax.tree.leaves_with_path(node))


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)
