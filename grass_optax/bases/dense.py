"""A basis that is a matrix S (..., m, r).

The two large products of a step, S^T G and S D, run at JAX's default matmul precision and
accumulate in float32 at least. The small product of two bases runs at the highest precision.

With `map_stacks` the matrices of a stack are multiplied one after the other, in a loop over its
first axis. On a mesh that shards m, every device holds the whole sum S^T G until it is scattered,
and the whole D after it is gathered; in a loop, it holds those of one matrix at a time. The first
axis must not be sharded itself, and the devices must not be CPUs (docs/guides/sharding.md,
"Stacks").
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from grass_optax._linalg import products
from grass_optax._linalg.dtypes import wide
from grass_optax._trees.mesh import whole_along

__all__ = ["project", "lift", "rotation"]


def project(
    basis: Float[Array, "*b m r"], grad: Float[Array, "*b m n"], map_stacks: bool = False
) -> Float[Array, "*b r n"]:
    """S^T G, accumulated in float32 at least; factors of the same narrow type stay narrow."""
    return _of_stack(_project, map_stacks, basis, grad)


def lift(
    basis: Float[Array, "*b m r"], direction: Float[Array, "*b r n"], map_stacks: bool = False
) -> Float[Array, "*b m n"]:
    """S D in the type of the basis, accumulated in float32 at least."""
    return _of_stack(_lift, map_stacks, basis, direction)


def rotation(
    new: Float[Array, "*b m r"], old: Float[Array, "*b m r"], like: Float[Array, "*b m n"]
) -> Float[Array, "*b r r"]:
    """Q = S_new^T S_old in float32 at least; replicated over the axes that shard `like`."""
    wide_new, wide_old = (x.astype(wide(x.dtype)) for x in (new, old))
    return whole_along(products.rotation(wide_new, wide_old), (-2, -1), like)


def _of_stack(f: Callable[[Array, Array], Array], map_stacks: bool, basis: Array, factor: Array) -> Array:
    if map_stacks and basis.ndim > 2:
        return jnp.asarray(lax.map(lambda matrices: f(*matrices), (basis, factor)))
    return f(basis, factor)


def _project(basis: Array, grad: Array) -> Array:
    dtype = grad.dtype if grad.dtype == basis.dtype else wide(grad.dtype, basis.dtype)
    left, right = _transposed(basis).astype(dtype), grad.astype(dtype)
    return whole_along(jnp.matmul(left, right, preferred_element_type=wide(dtype)), (-2,), grad)


def _transposed(basis: Array) -> Array:
    """S^T; on a CPU as an array of its own, because products with a transposed factor are slower.

    Measured at LLaMA-60M's matrices, r = 128, two cores: 92 ms a step instead of 108.
    """

    def materialized(x: jax.Array) -> jax.Array:
        return jnp.asarray(lax.optimization_barrier(products.transpose(x)))

    return lax.platform_dependent(basis, cpu=materialized, default=products.transpose)


def _lift(basis: Array, direction: Array) -> Array:
    dtype = wide(basis.dtype)
    return jnp.matmul(basis, direction.astype(basis.dtype), preferred_element_type=dtype)
