"""Orthonormal bases and frames in matrix products only, by Newton-Schulz and by Gram-Schmidt."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from grass_optax._linalg.products import matmul, rotation, to_tangent

# Scales of the cubic Newton-Schulz steps on one Gram matrix. A step at scale s takes a singular
# value x to (3 s x - (s x)^3) / 2, at most 1 for s x < sqrt(3): the first scales raise small ones
# by more than the plain step's 1.5 and take large ones down among them, the last let all reach 1.
# Chosen for singular values in [0.25, 1], which a Gaussian of r = m/4 has under the bound below:
# six plain steps bring 0.25 to 1 - 5e-4, these to 1 - 3e-8. Together they raise a small one 40-fold
# at most, as nine plain ones do, and so the rounding errors of a float32 Gram matrix (1e-7) to
# 2e-4, far from the region where they would diverge.
_SCALES = (1.6, 1.5, 1.3, 1.1, 1.01, 1.0)
# A pass raises a small singular value 40-fold: six reach 1e-8 of the largest.
_MAX_PASSES = 6


def orthonormalize(x: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The polar factor of X: the orthonormal basis of its range that is nearest to X.

    Newton-Schulz in passes: each takes the Gram matrix A = X^T X, approximates A^(-1/2) by cubic
    steps on r x r matrices, and multiplies X by it::

      X (X^T X)^(-1/2)

    A well-conditioned X (a Gaussian with r <= m/2) needs one pass. A badly conditioned one needs
    as many as its condition number requires; a last cubic step squares the error that is left.
    Batch axes iterate together.

    Args:
      x: X (..., m, r), of full column rank.

    Returns:
      The polar factor (..., m, r).

    Examples:
      >>> grassmann.orthonormalize(jnp.array([[2.0, 0.0], [0.0, 3.0]])).round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)
    """
    x, gram = _passes(*_scaled_below_one(x))
    return 1.5 * x - 0.5 * matmul(x, gram)


def orthonormality_error(basis: Float[Array, "*b m r"]) -> Float[Array, "*b"]:
    """The largest entry of |S^T S - I| of each matrix.

    Args:
      basis: S (..., m, r).

    Returns:
      One number per matrix (...).

    Examples:
      >>> grassmann.orthonormality_error(jnp.array([[1.0, 0.5], [0.0, 1.0]]))
      Array(0.5, dtype=float32)
    """
    return _distance_to_identity(rotation(basis, basis))


def orthonormal_frame(
    x: Float[Array, "*b m k"], outside: Float[Array, "*b m r"] | None = None
) -> Float[Array, "*b m k"]:
    """The unit columns of X, each made orthogonal to those before it, and all of them to the basis
    `outside`.

    A column that loses more than half of its norm becomes zero: what is left could be rounding
    alone.
    """

    def one(frame: Array, i: Array) -> tuple[Array, None]:
        column = lax.dynamic_slice_in_dim(x, i, 1, axis=-1)
        for _ in range(2):  # projected twice: the first time leaves the rounding of what it took away
            column = to_tangent(frame, column if outside is None else to_tangent(outside, column))
        norm = jnp.linalg.norm(column, axis=-2, keepdims=True)
        column = jnp.where(norm > 0.5, column / jnp.where(norm > 0.5, norm, 1), 0)
        return lax.dynamic_update_slice_in_dim(frame, column, i, axis=-1), None

    return lax.scan(one, jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


@jax.custom_jvp
def _passes(x: Float[Array, "*b m r"], gram: Float[Array, "*b r r"]) -> tuple[Array, Array]:
    """As many passes as are needed for all matrices: X and its Gram matrix.

    A while loop has no derivative backwards, so a custom JVP differentiates an equivalent scan.
    """

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        passes, _, gram = carry
        return (passes < _MAX_PASSES) & _is_unfinished(gram)

    def one_pass(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        passes, *rest = carry
        return passes + 1, *_pass(*rest)

    _, x, gram = lax.while_loop(unfinished, one_pass, (jnp.int32(0), x, gram))
    return x, gram


@_passes.defjvp
def _passes_jvp(primals: Any, tangents: Any) -> Any:
    def scanned(x: Array, gram: Array) -> tuple[Array, Array]:
        def one(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            return lax.cond(_is_unfinished(carry[1]), _pass, lambda *same: same, *carry), None

        return lax.scan(one, (x, gram), length=_MAX_PASSES)[0]

    return jax.jvp(scanned, primals, tangents)


def _pass(x: Float[Array, "*b m r"], gram: Float[Array, "*b r r"]) -> tuple[Array, Array]:
    x = matmul(x, _inverse_sqrt(gram))
    return x, rotation(x, x)


def _is_unfinished(gram: Float[Array, "*b r r"]) -> Bool[Array, ""]:
    tolerance = float(jnp.finfo(gram.dtype).eps) ** 0.5
    return jnp.nanmax(_distance_to_identity(gram), initial=0) > tolerance


def _inverse_sqrt(gram: Float[Array, "*b r r"]) -> Float[Array, "*b r r"]:
    """Gram^(-1/2) by coupled cubic Newton-Schulz steps, each at its own scale; eigenvalues in (0,
    1].
    """
    identity = jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)

    def factor(scale: Array | float, product: Array) -> Array:
        return scale * (1.5 * identity - 0.5 * scale**2 * product)

    def step(carry: tuple[Array, Array], scale: Array) -> tuple[tuple[Array, Array], None]:
        y, z = carry
        t = factor(scale, matmul(z, y))
        return (matmul(y, t), matmul(t, z)), None

    z = factor(_SCALES[0], gram)
    return lax.scan(step, (matmul(gram, z), z), jnp.asarray(_SCALES[1:], gram.dtype))[0][1]


def _scaled_below_one(x: Float[Array, "*b m r"]) -> tuple[Float[Array, "*b m r"], Float[Array, "*b r r"]]:
    """X with singular values of at most 1, and its Gram matrix; X = 0 stays.

    The bound is ||X||_2 <= ||A^4||_F^(1/8) with A = X^T X: at most r^(1/16) too large, and exact
    for one column. The Frobenius norm is divided out first, so that the powers neither overflow nor
    vanish.
    """
    frobenius = jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    x = x / jnp.where(frobenius > 0, frobenius, 1)
    gram = rotation(x, x)
    power = gram
    for _ in range(2):
        power = matmul(power, power)
    bound = jnp.linalg.norm(power, axis=(-2, -1), keepdims=True) ** 0.125
    bound = jnp.where(bound > 0, bound, 1)
    return x / bound, gram / bound**2


def _distance_to_identity(gram: Float[Array, "*b r r"]) -> Float[Array, "*b"]:
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    return jnp.max(jnp.abs(gram - jnp.broadcast_to(identity, gram.shape)), axis=(-2, -1))
