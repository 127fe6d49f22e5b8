"""A basis that is a matrix S (..., m, r).

The two large products of a step, S^T G and S D, run at JAX's default matmul precision and
accumulate in float32 at least. The small product of two bases runs at the highest precision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._linalg import products
from grass_optax._linalg.dtypes import wide
from grass_optax._trees.mesh import whole_along


class Dense(NamedTuple):
    """A basis given by its entries.

    A state holds the array alone, and `as_basis` makes a `Dense` of it.

    Attributes:
      matrix: S (..., m, r).

    Examples:
      >>> basis = bases.Dense(jnp.eye(2, 1))
      >>> grad = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> basis.project(grad)
      Array([[1., 2.]], dtype=float32)
      >>> basis.lift(basis.project(grad))
      Array([[1., 2.],
             [0., 0.]], dtype=float32)
      >>> old = jnp.eye(3, 2)
      >>> bases.Dense(old[:, ::-1]).rotation(bases.Dense(old), like=jnp.ones((3, 4)))
      Array([[0., 1.],
             [1., 0.]], dtype=float32)
    """

    matrix: Float[Array, "*b m r"]

    @property
    def rank(self) -> int:
        """r."""
        return self.matrix.shape[-1]

    def project(self, grad: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """S^T G: multiplied in a narrow type if both factors have it."""
        basis = self.matrix
        dtype = grad.dtype if grad.dtype == basis.dtype else wide(grad.dtype, basis.dtype)
        left, right = _transposed(basis).astype(dtype), grad.astype(dtype)
        return whole_along(jnp.matmul(left, right, preferred_element_type=wide(dtype)), (-2,), grad)

    def lift(self, direction: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """S D, multiplied in the type of the basis."""
        basis = self.matrix
        return jnp.matmul(basis, direction.astype(basis.dtype), preferred_element_type=wide(basis.dtype))

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g."""
        inside = self.lift(jnp.asarray(fraction, projected.dtype) * projected)
        return grad.astype(inside.dtype) - inside

    def rotation(self, old: "Dense", like: Float[Array, "*b m n"]) -> Float[Array, "*b r r"]:
        """Q = S^T S_old, in float32 at least."""
        new, before = (basis.matrix.astype(wide(basis.matrix.dtype)) for basis in (self, old))
        return whole_along(products.rotation(new, before), (-2, -1), like)

    def squared(self) -> "Dense":
        """The squares of the entries."""
        return Dense(jnp.square(self.matrix))

    def to_matrix(self) -> Float[Array, "*b m r"]:
        """S."""
        return self.matrix


def _transposed(basis: Array) -> Array:
    """S^T; on a CPU as an array of its own, because products with a transposed factor are slower.

    Measured at LLaMA-60M's matrices, r = 128, two cores: 92 ms a step instead of 108.
    """

    def materialized(x: jax.Array) -> jax.Array:
        return jnp.asarray(lax.optimization_barrier(products.transpose(x)))

    return lax.platform_dependent(basis, cpu=materialized, default=products.transpose)
