"""The type in which to compute and to keep a state: float32 at least.

A second moment in bfloat16 with b2 = 0.999 rounds back to itself and never decays, and a first
moment loses what is below 1/256 of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def wide(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The type in which to compute with these: the widest of them, and float32 at least."""
    return max((jnp.dtype(t) for t in (*dtypes, jnp.float32)), key=lambda t: t.itemsize)


def widened(tree: PyTree) -> PyTree:
    """A tree of arrays in float32 at least; complex and wider types are unchanged."""
    return jax.tree.map(lambda x: x.astype(_wide(x.dtype)), tree)


def _wide(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.complexfloating) else wide(dtype)
