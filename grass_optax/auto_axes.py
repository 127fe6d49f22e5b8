"""On a mesh with Explicit axes the arithmetic of a step runs as on one with Auto axes.

There the type of an array says how it is sharded, and JAX refuses a product that sums over a sharded axis unless it is
told how the result shall lie. The compiler knows better.

Members: with_auto_axes.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType


def with_auto_axes(f: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """f with all axes Auto inside, whose results lie as the arrays of `like` do, a tree of the structure of the
    results; f itself on a mesh without Explicit axes.
    """
    shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, like)
    if not any(AxisType.Explicit in x.mesh.axis_types for x in jax.tree.leaves(shardings)):
        return f
    return jax.sharding.auto_axes(f, out_sharding=shardings)
