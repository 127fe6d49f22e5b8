"""Which arrays of a tree are stacks of matrices, one for each layer, and the tree of one layer."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from grass_optax._trees.mesh import in_order
from grass_optax._trees.paths import leaf_path

Stacks = list[Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
    """What a tree of arrays is, where it holds one stack or more.

    Attributes:
      is_stack: for each leaf.
      whole: the structure of the tree.
      single: that of the tree with one layer, which may differ in what is not an array.
    """

    is_stack: tuple[bool, ...]
    whole: Any
    single: Any

    @classmethod
    def of(cls, tree: PyTree, single: PyTree, longer: PyTree, count: int, what: str) -> Self:
        """The stacks of a tree of `count` layers, found by comparing it with the same tree of one
        layer and of one layer more.

        Raises:
          ValueError: an array depends on the number of layers in another way.
        """
        leaves = jax.tree.leaves_with_path(tree)
        others = zip(leaves, jax.tree.leaves(single), jax.tree.leaves(longer), strict=True)
        is_stack = tuple(_is_stack(leaf_path(path), x, one, more, count, what) for (path, x), one, more in others)
        return cls(is_stack=is_stack, whole=jax.tree.structure(tree), single=jax.tree.structure(single))

    def stacks(self, tree: PyTree) -> Stacks:
        """The stacks of a tree, of all layers or of one."""
        return [x for x, is_stack in zip(jax.tree.leaves(tree), self.is_stack, strict=True) if is_stack]

    def others(self, tree: PyTree) -> list[Array]:
        """The other arrays of a tree."""
        return [x for x, is_stack in zip(jax.tree.leaves(tree), self.is_stack, strict=True) if not is_stack]

    def with_stacks(self, tree: PyTree, stacks: Stacks, *, single: bool = False) -> PyTree:
        """The tree with these stacks, of all layers or of one; its other leaves as they are."""
        return (self.single if single else self.whole).unflatten(self._merged(stacks, self.others(tree)))

    def with_others(self, tree: PyTree, others: list[Array]) -> PyTree:
        """The tree with other leaves that are no stacks."""
        return self.whole.unflatten(self._merged(self.stacks(tree), others))

    def _merged(self, stacks: Stacks, others: list[Array]) -> list[Array]:
        parts = iter(stacks), iter(others)
        return [next(parts[0] if is_stack else parts[1]) for is_stack in self.is_stack]


def _is_stack(name: str, x: Any, one: Any, more: Any, count: int, what: str) -> bool:
    shapes = [(tuple(y.shape), y.dtype) for y in (one, x, more)]
    if shapes[0] == shapes[1] == shapes[2]:
        return False
    if shapes == [((size, *x.shape[1:]), x.dtype) for size in (1, count, count + 1)]:
        return True
    raise ValueError(
        f"{what} {name!r} has the shape {tuple(x.shape)} for {count} layers and {tuple(one.shape)} for one, so no "
        "layer can be updated alone. Give a transformation whose state stacks the layers along the first axis."
    )


def layer_of(stacks: Stacks, i: Int[Array, ""]) -> Stacks:
    """Layer i of every stack, as a stack of one."""
    return [in_order(lax.dynamic_slice_in_dim(x, i, 1)) for x in stacks]


def with_layer(stacks: Stacks, i: Int[Array, ""], layer: Stacks) -> Stacks:
    """The stacks with another layer i."""
    return [lax.dynamic_update_slice_in_dim(x, in_order(new), i, 0) for x, new in zip(stacks, layer, strict=True)]


def resized(tree: PyTree, is_stack: tuple[bool, ...], count: int) -> PyTree:
    """The shapes of a tree if its stacks had `count` layers."""
    structure: Any = jax.tree.structure(tree)

    def shape(x: Any, is_stack: bool) -> Any:
        return jax.ShapeDtypeStruct((count, *x.shape[1:]) if is_stack else x.shape, jnp.result_type(x))

    return structure.unflatten([shape(x, s) for x, s in zip(jax.tree.leaves(tree), is_stack, strict=True)])
