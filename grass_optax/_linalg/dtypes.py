"""The type in which to compute and to keep a state: float32 at least.

A second moment in bfloat16 with b2 = 0.999 rounds back to itself and never decays, and a first
moment loses what is below 1/256 of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PyTree

_NUMBERS = (np.ndarray, np.generic, bool, int, float, complex)


def wide(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The type in which to compute with these: the widest of them, and float32 at least."""
    return max((jnp.dtype(t) for t in (*dtypes, jnp.float32)), key=lambda t: t.itemsize)


def as_wide_as(updates: PyTree, params: PyTree | None) -> PyTree:
    """Gradients in the type of their parameters, where that is the wider one; as they are without
    parameters.

    So an update is not rounded to the type of a gradient, as in Optax's Adam.
    """

    def widened_to(grad: jax.Array, param: Any) -> jax.Array:
        dtype = jnp.result_type(param)
        return grad.astype(dtype) if dtype.itemsize > grad.dtype.itemsize else grad

    updates = as_arrays(updates)
    return updates if params is None else jax.tree.map(widened_to, updates, params)


def as_arrays(tree: PyTree) -> PyTree:
    """A tree whose numbers, of Python and NumPy, are arrays of JAX."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, _NUMBERS) else x, tree)


def as_shapes(tree: PyTree) -> PyTree:
    """A tree whose numbers, of Python and NumPy, are the shapes and types of `as_arrays`."""

    def shape_of(x: Any) -> Any:
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) if isinstance(x, _NUMBERS) else x

    return jax.tree.map(shape_of, tree)


def rounded(tree: PyTree, dtype: jax.typing.DTypeLike) -> PyTree:
    """A tree in another floating type, rounded to it even where it is widened again at once.

    XLA may drop a conversion to a narrower type and back, and on a GPU it does.
    """
    to = jnp.finfo(dtype)

    def one(x: jax.Array) -> jax.Array:
        if to.bits < jnp.finfo(x.dtype).bits:
            x = lax.reduce_precision(x, exponent_bits=to.nexp, mantissa_bits=to.nmant)
        return x.astype(dtype)

    return jax.tree.map(lambda x: one(x) if _is_floating(x) else x, tree)


def cast(tree: PyTree, dtype: jax.typing.DTypeLike) -> PyTree:
    """The floating arrays of a tree in another type; integers as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if _is_floating(x) else x, tree)


def is_narrow(tree: PyTree) -> bool:
    """Whether a floating array of a tree is narrower than float32."""
    return any(_is_floating(x) and x.dtype != wide(x.dtype) for x in jax.tree.leaves(tree))


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def widened(tree: PyTree) -> PyTree:
    """A tree of arrays in float32 at least; complex and wider types are unchanged."""
    return jax.tree.map(lambda x: x.astype(_wide(x.dtype)), as_arrays(tree))


def _wide(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.complexfloating) else wide(dtype)
