"""How a residual transformation that only multiplies columns runs: on their norms alone.

R = G - c S g is never formed, with c = `removed_fraction`. The squared norm of its column i follows
from sums of squares over the columns of G, g and S g::

  ||R_i||^2 = ||G_i||^2 - 2 c ||g_i||^2 + c^2 ||(S g)_i||^2

The transformation is given these norms. The ratio of what it returns to what it was given is the
factor phi_i of column i, and the step adds phi (G - c S g) in two products and one sum.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import cast, is_narrow, wide
from grass_optax._linalg.norms import finite_root, sum_of_squares
from grass_optax._trees.matrix_layout import MatrixLayout
from grass_optax.bases import BasisLike, as_basis

# Roundings of ||G_i||^2 below which a difference of sums of squares says nothing: measured 28 %
# wrong at ||R|| = 1e-3 ||G|| in float32.
_CANCELLED = 8


@jax.jit
def gradient_norms(layout: MatrixLayout, leaf: Array) -> Float[Array, "*b 1 n"]:
    """The norms of the columns of a gradient shaped like its parameter."""
    return finite_root(_gradient_squares(layout, leaf))


@functools.partial(jax.jit, static_argnames="orthonormal")
def residual_norms(
    layout: MatrixLayout,
    leaf: Array,
    basis: BasisLike,
    projected: Array,
    *,
    removed_fraction: ArrayLike,
    orthonormal: bool,
) -> Float[Array, "*b 1 n"]:
    """The norms of the columns of R = G - c S g, for a gradient shaped like its parameter.

    A difference that cancels to a few roundings (||R_i|| < 1e-3 ||G_i|| in float32) counts as
    nothing: as a norm it would be noise, and a norm-growth limit that took it for a first norm
    would hold the recovered part down. A sum that overflowed counts as nothing too; NaN stays NaN.
    """
    total = _gradient_squares(layout, leaf)
    fraction = jnp.asarray(removed_fraction, total.dtype)
    lifted = _lifted_squares(basis, projected, orthonormal)
    outside = total - fraction * (2 * sum_of_squares(projected) - fraction * lifted)
    threshold = _CANCELLED * jnp.finfo(total.dtype).eps * total
    return jnp.sqrt(jnp.where(jnp.isinf(total) | (outside <= threshold), 0, outside))


@jax.jit
def column_factors(output: Array, norms: Array) -> Float[Array, "*b 1 n"]:
    """phi: what the transformation returned over what it was given; 0 for an empty column."""
    is_empty = norms == 0
    return jnp.where(is_empty, 0, output / jnp.where(is_empty, 1, norms))


def _gradient_squares(layout: MatrixLayout, leaf: Array) -> Float[Array, "*b 1 n"]:
    return layout.sum_over_m(jnp.square(leaf.astype(wide(leaf.dtype))))


def _lifted_squares(basis: BasisLike, projected: Array, orthonormal: bool) -> Float[Array, "*b 1 n"]:
    """||(S g)_i||^2, which is ||g_i||^2 where S^T S = I holds to float32."""
    if orthonormal and not is_narrow(basis):
        return sum_of_squares(projected)
    wide_basis = as_basis(cast(basis, projected.dtype))
    with jax.default_matmul_precision("highest"):
        gram_times = as_basis(wide_basis.rotation(wide_basis, projected)).lift(projected)
    return jnp.sum(projected * gram_times, axis=-2, keepdims=True)
