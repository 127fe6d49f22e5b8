"""What a step must know of placement: where the axes of a mesh are Explicit, where stacking would
gather, and the order of axes in memory.

On a mesh with Explicit axes the arithmetic of a step runs as on one with Auto axes. There the type
of an array says how it is sharded, and JAX refuses a product that sums over a sharded axis unless
the caller says how the result is sharded. We leave placement to the compiler, except for one
constraint (`whole_along`).
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

_TILE = 128  # the longer side of a tile of a TPU


def with_auto_axes(f: Callable[..., Any], like: PyTree) -> Callable[..., Any]:
    """f with all mesh axes Auto inside; f itself on a mesh without Explicit axes.

    Its results are sharded as the arrays of `like`, a tree of the structure of the results.
    """
    shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, like)
    if not any(AxisType.Explicit in x.mesh.axis_types for x in jax.tree.leaves(shardings)):
        return f
    return jax.sharding.auto_axes(f, out_sharding=shardings)


def whole_along(x: jax.Array, axes: tuple[int, ...], like: Any) -> jax.Array:
    """Constrain `x` to be replicated along `axes` (negative) on the mesh of `like`.

    Other axes are left to the compiler. Without a mesh of Auto axes this returns `x`. If moments
    are sharded along r, the compiler would also shard along r a basis that is drawn in the step,
    since no input fixes its sharding. It would then gather the gradient for the product.
    """
    mesh = jax.typeof(like).sharding.mesh
    if is_mesh_free(like) or set(mesh.axis_types) != {AxisType.Auto}:
        return x
    entries = (None if i - x.ndim in axes else PartitionSpec.UNCONSTRAINED for i in range(x.ndim))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*entries)))


def is_mesh_free(x: Any) -> bool:
    """True if `x` is not on a mesh of several devices.

    On a mesh, equal shapes can have different shardings, and stacking them would force a gather.
    """
    mesh = jax.typeof(x).sharding.mesh
    return bool(mesh.empty or mesh.size == 1)


def in_order(x: jax.Array) -> jax.Array:
    """The array with its axes in memory in their order, as a program gets its arguments.

    A compiler chooses the layout of an array by what reads it. Where that is not the layout of the
    argument from which it comes, or of the result to which it goes, it copies it, and a whole stack
    if the array is its layer. Arguments with an axis shorter than a tile have another order on a
    TPU, and on a mesh XLA on CPU copies stacks because of the constraint, so there it is left out.
    """
    if min(x.shape[-2:], default=0) < _TILE or not is_mesh_free(x):
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
