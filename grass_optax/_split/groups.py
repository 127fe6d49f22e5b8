"""Leaves that are alike, side by side: one operation for all matrices of a shape in place of one
for each.

A model of a hundred unstacked matrices takes a minute and more to compile if the basis of each is
drawn and orthonormalised on its own. A stack of layers is a group already.

Members: Groups, alike, is_mesh_free.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Groups(NamedTuple):
    """The leaves of a tree, or subtrees in their places, in groups."""

    treedef: Any
    members: tuple[tuple[int, ...], ...]  # of each group: numbers of leaves

    def join(self, tree: Any) -> list[Any]:
        """One tree for each group: of a single member its own, else all of them stacked along a new
        first axis.
        """
        leaves = self.treedef.flatten_up_to(tree)
        return [
            leaves[group[0]] if len(group) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *(leaves[i] for i in group))
            for group in self.members
        ]

    def part(self, joined: list[Any]) -> Any:
        """The inverse of `join`."""
        leaves = [None] * self.treedef.num_leaves
        for group, tree in zip(self.members, joined, strict=True):
            for place, i in enumerate(group):
                leaves[i] = tree if len(group) == 1 else jax.tree.map(lambda x, place=place: x[place], tree)
        return self.treedef.unflatten(leaves)


def alike(tree: Any, treedef: Any, alone: Callable[[Any], bool]) -> Groups:
    """Groups of the subtrees in the places of `treedef`'s leaves, of equal shapes and types; some
    stay alone.
    """
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(treedef.flatten_up_to(tree)):
        arrays, structure = jax.tree.flatten(leaf)
        kind = i if alone(leaf) else (structure, *map(jax.typeof, arrays))
        groups.setdefault(kind, []).append(i)
    return Groups(treedef, tuple(map(tuple, groups.values())))


def is_mesh_free(x: jax.Array) -> bool:
    """Whether its type names no mesh of several devices. On one, two arrays of a shape may be
    sharded in two ways, and joining them, or what is drawn for them, would gather one.
    """
    mesh = jax.typeof(x).sharding.mesh
    return bool(mesh.empty or mesh.size == 1)
