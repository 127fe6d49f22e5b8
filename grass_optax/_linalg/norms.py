"""Norms of columns and matrices, in float32 at least."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import wide


def column_norms(x: Float[Array, "*b m n"]) -> Float[Array, "*b 1 n"]:
    """The 2-norm of each column, in float32 at least; 0 where it overflowed, so that nothing is
    scaled by it.

    The squares of a float32 column overflow above 1e19. NaN stays NaN: what it spoils has to be
    seen.
    """
    return finite_root(sum_of_squares(x))


def finite_root(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, 0 where it is infinite."""
    norms = jnp.sqrt(squares)
    return jnp.where(jnp.isinf(norms), 0, norms)


def sum_of_squares(x: Float[Array, "*b m n"]) -> Float[Array, "*b 1 n"]:
    """The squared 2-norm of each column, in float32 at least."""
    return jnp.sum(jnp.square(x.astype(wide(x.dtype))), axis=-2, keepdims=True)


def over_largest(x: Float[Array, "*b m n"]) -> tuple[Float[Array, "*b m n"], Float[Array, "*b"]]:
    """X over the largest size of its entries, and that size: the square of what is at most 1 does
    not overflow, nor do those that count underflow. Zero stays zero; NaN if X is not finite.
    """
    largest = jnp.max(jnp.abs(x), axis=(-2, -1))
    return x / jnp.where(largest == 0, 1, largest)[..., None, None], largest


@jax.jit
def frobenius_norm(x: Float[Array, "*b m n"]) -> Float[Array, "*b"]:
    """The Frobenius norm of each matrix, or of its row of column norms; 0 if it overflowed."""
    return finite_root(jnp.sum(sum_of_squares(x), axis=(-2, -1)))
