"""On a mesh with Explicit axes the arithmetic of a step runs as on one with Auto axes.

There the type of an array says how it is sharded, and JAX refuses a product that sums over a
sharded axis unless it is told how the result shall lie. The compiler knows better, but for one
thing, which it is told.

Members: with_auto_axes, whole_along.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def with_auto_axes(f: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """f with all axes Auto inside, whose results lie as the arrays of `like` do, a tree of the
    structure of the results; f itself on a mesh without Explicit axes.
    """
    shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, like)
    if not any(AxisType.Explicit in x.mesh.axis_types for x in jax.tree.leaves(shardings)):
        return f
    return jax.sharding.auto_axes(f, out_sharding=shardings)


def whole_along(x: jax.Array, axes: tuple[int, ...], like: Any) -> jax.Array:
    """x, which on the mesh of `like` is not sharded along some axes (-1 is the last); of others the
    compiler decides.

    Where moments are sharded along r, the compiler shards along r what is multiplied for them: a
      basis that is drawn in the step, whose sharding no input fixes, and gathers the gradient for
      it. Without a mesh of Auto axes it is x.
    """
    mesh = jax.typeof(like).sharding.mesh
    if mesh.empty or mesh.size == 1 or set(mesh.axis_types) != {AxisType.Auto}:
        return x
    entries = (None if i - x.ndim in axes else PartitionSpec.UNCONSTRAINED for i in range(x.ndim))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*entries)))
