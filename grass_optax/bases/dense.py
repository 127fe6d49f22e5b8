"""The two large products of a step, S^T G and S D, and what is fused with them.

They run at JAX's default matmul precision and accumulate in float32 at least; those of the geometry
(`grassmann`) run at the highest.

Members: Products.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from grass_optax._linalg.grassmann import transpose, wide
from grass_optax._trees.mesh import whole_along


class Products(NamedTuple):
    """The products, of all matrices of a stack at once or of one after the other, in a loop over
    its first axis.

    On a mesh that shards m, S^T G is a sum that every device has whole until it is scattered, and D
    is gathered; in a loop both are of one matrix at a time. The first axis must not be sharded
    itself, nor the devices be a CPU's (docs/sharding.md, "Stacks").
    """

    map_stacks: bool

    def project(self, basis: jax.Array, grad: jax.Array) -> jax.Array:
        """S^T G, accumulated in float32 at least; its factors stay narrow if both are."""
        return self._of(_project, basis, grad)

    def lift(self, basis: jax.Array, direction: jax.Array) -> jax.Array:
        """S D in the type of the basis, accumulated in float32 at least."""
        return self._of(_lift, basis, direction)

    def lift_scaled(
        self, factors: jax.Array, basis: jax.Array, scaled: jax.Array, removed: jax.Array, grad: jax.Array
    ) -> jax.Array:
        """S (scale D) + phi (G - S g), column factors phi, written so that the residual is never
        formed.
        """
        return self.lift(basis, scaled - factors * removed) + factors * grad.astype(factors.dtype)

    def outside(self, basis: jax.Array, removed: jax.Array, grad: jax.Array) -> jax.Array:
        """The dense residual R = G - S g."""
        return grad.astype(removed.dtype) - self.lift(basis, removed)

    def _of(self, f: Callable[[jax.Array, jax.Array], jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
        if self.map_stacks and a.ndim > 2:
            return jnp.asarray(lax.map(lambda matrices: f(*matrices), (a, b)))
        return f(a, b)


def _project(basis: jax.Array, grad: jax.Array) -> jax.Array:
    dtype = grad.dtype if grad.dtype == basis.dtype else wide(grad.dtype, basis.dtype)
    left, right = _transposed(basis).astype(dtype), grad.astype(dtype)
    return whole_along(jnp.matmul(left, right, preferred_element_type=wide(dtype)), (-2,), grad)


def _transposed(basis: jax.Array) -> jax.Array:
    """S^T, on a CPU as an array of its own: its products with a transposed factor are slower by
    more than that costs.

    Measured at LLaMA-60M's matrices, r = 128, two cores: 92 ms a step in place of 108.
    """

    def turned(x: jax.Array) -> jax.Array:
        return jnp.asarray(lax.optimization_barrier(transpose(x)))

    return lax.platform_dependent(basis, cpu=turned, default=transpose)


def _lift(basis: jax.Array, direction: jax.Array) -> jax.Array:
    return jnp.matmul(basis, direction.astype(basis.dtype), preferred_element_type=wide(basis.dtype))
