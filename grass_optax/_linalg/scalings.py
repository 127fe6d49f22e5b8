"""Scaling the two sides of a matrix, each of which is one axis of an array or several.

All other axes are batch axes. What belongs to one side has length 1 along the other.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import wide
from grass_optax._linalg.norms import finite_root

Axes = tuple[int, ...]


def normalized(
    x: Float[Array, "..."], axes: Axes, scale: ArrayLike = 1.0, eps: ArrayLike = 1e-8, unit_rms: bool = True
) -> Float[Array, "..."]:
    """X with a root mean square, or a norm, of `scale` along `axes`, in the type of X.

    What is smaller than `eps` is divided by `eps` instead, so that zero stays zero.
    """
    wide_x = x.astype(wide(x.dtype))
    squares = jnp.square(wide_x)
    sizes = jnp.mean(squares, axes, keepdims=True) if unit_rms else jnp.sum(squares, axes, keepdims=True)
    divisor = jnp.maximum(jnp.sqrt(sizes), jnp.asarray(eps, wide_x.dtype))
    return (jnp.asarray(scale, wide_x.dtype) * wide_x / divisor).astype(x.dtype)


def sinkhorn_scaled(x: Float[Array, "..."], inputs: Axes, outputs: Axes, iterations: int) -> Float[Array, "..."]:
    """X with a root mean square of 1 for each output, then for each input, and so on.

    With P the squares of X, this is Sinkhorn's algorithm on P, whose factors a, b are the squares
    of those of X. From b = 1::

      a_j = 1 / mean_i(b_i P_ij),   b_i = 1 / mean_j(a_j P_ij)    `iterations` times
      X_ij sqrt(b_i a_j)

    An iteration reads P and writes two vectors. A row or column of zeros stays zero, and what is
    not finite makes its whole matrix NaN.
    """
    x = x / _largest(x, inputs + outputs)
    squares = jnp.square(x)
    of_inputs = of_outputs = jnp.ones_like(x, shape=(1,) * x.ndim)
    for _ in range(iterations):
        of_outputs = 1 / _or_one(jnp.mean(of_inputs * squares, inputs, keepdims=True))
        of_inputs = 1 / _or_one(jnp.mean(of_outputs * squares, outputs, keepdims=True))
    return x * jnp.sqrt(of_inputs) * jnp.sqrt(of_outputs)


def fisher_scales(
    x: Float[Array, "..."], inputs: Axes, outputs: Axes, iterations: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The two diagonals s, q whose product s_i q_j is nearest to the squares P of X.

    By power iteration (eq. 16 of arXiv 2502.07752), from q = 1::

      s = P q / ||q||^2,   q = P^T s / ||s||^2    `iterations` times

    Both are zero if X is.

    Returns:
      s of the inputs and q of the outputs, each with length 1 along the axes of the other.
    """
    largest = _largest(x, inputs + outputs)  # the fourth powers of small gradients are no float32
    squares = jnp.square(x / largest)
    of_outputs = jnp.ones_like(jnp.sum(squares, inputs, keepdims=True))
    of_inputs = jnp.zeros_like(jnp.sum(squares, outputs, keepdims=True))
    for _ in range(iterations):
        size = jnp.sum(jnp.square(of_outputs), outputs, keepdims=True)
        of_inputs = jnp.sum(of_outputs * squares, outputs, keepdims=True) / _or_one(size)
        size = jnp.sum(jnp.square(of_inputs), inputs, keepdims=True)
        of_outputs = jnp.sum(of_inputs * squares, inputs, keepdims=True) / _or_one(size)
    return jnp.square(largest) * of_inputs, of_outputs


def divided(
    x: Float[Array, "..."], of_inputs: Float[Array, "..."], of_outputs: Float[Array, "..."]
) -> Float[Array, "..."]:
    """X_ij / sqrt(s_i q_j); zero where s_i or q_j is."""
    divisor = jnp.sqrt(of_inputs) * jnp.sqrt(of_outputs)
    return jnp.where(divisor == 0, 0, x / _or_one(divisor))


def matrix_norms(x: Float[Array, "..."], both: Axes) -> Float[Array, "..."]:
    """The Frobenius norm of each matrix, with length 1 along its axes; 0 if it overflowed."""
    return finite_root(jnp.sum(jnp.square(x), both, keepdims=True))


def _largest(x: Float[Array, "..."], both: Axes) -> Float[Array, "..."]:
    """The largest entry of each matrix, or 1 if all are zero."""
    return _or_one(jnp.max(jnp.abs(x), both, keepdims=True))


def _or_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 instead of zeros, so that nothing is divided by zero. NaN stays NaN."""
    return jnp.where(x == 0, 1, x)
