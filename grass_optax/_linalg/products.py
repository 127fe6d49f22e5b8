"""The matrix products that the geometry is written in, over any batch axes.

They run at full precision whatever JAX's default is, because the errors of a basis outlive the step
that made them.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def transpose(x: Float[Array, "*b m n"]) -> Float[Array, "*b n m"]:
    """Swap the two matrix axes."""
    return jnp.swapaxes(x, -1, -2)


def project(basis: Float[Array, "*b m r"], x: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
    """Coordinates S^T X of the columns of X in the basis (eq. 1)."""
    return matmul(transpose(basis), x)


def lift(basis: Float[Array, "*b m r"], x: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
    """S X: coordinates back in the whole space."""
    return matmul(basis, x)


def rotation(new: Float[Array, "*b m r"], old: Float[Array, "*b m r"]) -> Float[Array, "*b r r"]:
    """Q = S_new^T S_old, which takes coordinates in the old basis to the new one (eq. 7)."""
    return project(new, old)


def to_tangent(basis: Float[Array, "*b m r"], x: Float[Array, "*b m k"]) -> Float[Array, "*b m k"]:
    """The part of X outside the subspace, X - S S^T X: its horizontal projection."""
    return x - lift(basis, project(basis, x))


def scaled_to_one(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """X divided by its largest entry; zero where X is zero or not finite."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    usable = jnp.isfinite(largest) & (largest > 0)
    return jnp.where(usable, x / jnp.where(usable, largest, 1), 0)
