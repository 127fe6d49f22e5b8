"""Leading singular vectors: by subspace iteration, by LAPACK, or one by one by squaring."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from grass_optax._linalg.jacobi import eigenvectors
from grass_optax._linalg.orthonormal import orthonormal_frame, orthonormalize
from grass_optax._linalg.products import matmul, rotation, scaled_to_one, to_tangent, transpose

# Weight of the Gaussian that keeps a rank-deficient matrix at full rank. Measured over shapes up to
# 512 x 1376 and ranks far below r: the part of X that the noise lets escape is 8e-4 of ||X|| at a
# weight of 1e-3 and 8e-5 at 1e-4; at 1e-5 Newton-Schulz no longer reaches an orthonormality error
# of 1e-6.
_RANGE_NOISE = 1e-4
# Squarings of a Gram matrix: the 2^16th power separates eigenvalues that differ by one part in ten
# thousand.
_SQUARINGS = 16
_LAPACK_IS_SAFE = jax.__version_info__ >= (0, 11)  # see leading_left_singular_vectors


def range_basis(
    key: Key[Array, ""], x: Float[Array, "*b m n"], rank: int, power_steps: int = 2, in_order: bool = True
) -> Float[Array, "*b m r"]:
    """The leading left singular vectors of X, nearly, in order and up to sign; if not `in_order`,
    only a basis of their span.

    By subspace iteration, `power_steps` times from a Gaussian S::

      Y <- X (X^T S),   S <- polar(sqrt(r) Y / ||Y||_F + 1e-4 Z / sqrt(m))

    The polar factor has the right range in any coordinates, and Adam depends on them. So a last
    step turns S to the eigenvectors of (S^T X) (S^T X)^T. The noise Z keeps S orthonormal when
    rank(X) < r. A matrix that is zero or not finite gets the basis of Z alone, and so does one
    whose largest entry is below 1e-35 or above 1e36 in float32.
    """
    *batch, m, _ = x.shape
    start_key, noise_key = jax.random.split(key)
    start, noise = (jax.random.normal(k, (*batch, m, rank), x.dtype) / m**0.5 for k in (start_key, noise_key))
    # X over its largest entry, without a copy of X: the narrow factors are scaled instead.
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    scale = jnp.minimum(1 / largest, jnp.finfo(x.dtype).max)

    def step(_: Array, basis: Array) -> Array:
        y = scaled_to_one(matmul(x, scale * matmul(transpose(x), scale * basis)))
        norm = jnp.linalg.norm(y, axis=(-2, -1), keepdims=True)
        return orthonormalize(y * (rank**0.5 / jnp.where(norm > 0, norm, 1)) + _RANGE_NOISE * noise)

    basis = lax.fori_loop(0, power_steps, step, start)
    if not in_order:
        return basis
    inside = scaled_to_one(matmul(transpose(scale * basis), x))
    return matmul(basis, eigenvectors(matmul(inside, transpose(inside))))


def leading_left_singular_vectors(x: Float[Array, "*b m n"], rank: int) -> Float[Array, "*b m r"]:
    """Return the first `rank` left singular vectors of each X, exactly. X must be finite.

    On a CPU before jaxlib 0.11, several LAPACK calls on batches in one program can wait for each
    other forever, so there the program calls back into NumPy. A program over several devices cannot
    do that.

    Raises:
      NotImplementedError: CPU devices in a mesh, before jaxlib 0.11.
    """

    def on_device(x: Array) -> Array:
        return jnp.linalg.svd(x, full_matrices=False)[0][..., :rank]

    def on_host(x: Array) -> Array:
        # As bits, for a callback runs in another thread: where float64 is enabled in this one alone
        # (the context manager jax.enable_x64), that one would make float32 of it.
        bits = lax.bitcast_convert_type(x, jnp.uint16)
        out = jax.ShapeDtypeStruct((*x.shape[:-1], rank, bits.shape[-1]), bits.dtype)
        vectors = jax.pure_callback(_host_svd(rank, x.dtype), out, bits, vmap_method="broadcast_all")
        return lax.bitcast_convert_type(vectors, x.dtype)

    if _LAPACK_IS_SAFE:
        return on_device(x)
    if jax.default_backend() == "cpu" and jax.typeof(x).sharding.mesh.size > 1:
        raise NotImplementedError(
            "an exact SVD of a matrix on a mesh of CPU devices hangs before jaxlib 0.11 (this is jax "
            f'{jax.__version__}). Use svd="randomized" or a rule without a factorisation, or a newer jaxlib.'
        )
    return lax.platform_dependent(x, cpu=on_host, default=on_device)


def leading_singular_triplets(
    x: Float[Array, "*b m r"], k: int
) -> tuple[Float[Array, "*b m k"], Float[Array, "*b k"], Float[Array, "*b r k"]]:
    """The k leading singular triplets (U, sigma, V) of X in products only: eigenvectors of X^T X,
    one after the other.

    V^T V = I. U is only as orthogonal as rounding lets X V be, and less so if singular values are
    far apart: see `orthonormal_frame`. A triplet of singular value 0, to the rounding of X^T X, is
    given as zeros.
    """
    x, scale = scaled_to_one(x), jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)

    def one(gram: Array, _: None) -> tuple[Array, Array]:
        v = _leading_eigenvector(gram)
        gram = to_tangent(v, transpose(to_tangent(v, gram)))  # both sides without v
        return gram, v[..., 0]

    _, vectors = lax.scan(one, rotation(x, x), None, length=k)
    right = orthonormal_frame(jnp.moveaxis(vectors, 0, -1))
    left = matmul(x, right)
    sigma = jnp.linalg.norm(left, axis=-2, keepdims=True)
    left = jnp.where(sigma > 0, left / jnp.where(sigma > 0, sigma, 1), 0)
    return left, (sigma * scale)[..., 0, :], right


def _host_svd(rank: int, dtype: Any) -> Callable[[Any], Any]:
    def svd(bits: Any) -> Any:
        x = np.asarray(bits).view(dtype)[..., 0]
        left = np.linalg.svd(x, full_matrices=False)[0][..., :rank, None]
        return np.ascontiguousarray(left).view(np.uint16)

    return svd


def _leading_eigenvector(gram: Float[Array, "*b r r"]) -> Float[Array, "*b r 1"]:
    """A unit eigenvector of the largest eigenvalue of a positive semidefinite matrix, by squaring;
    0 for 0.
    """

    def with_unit_trace(x: Array) -> Array:
        trace = jnp.trace(x, axis1=-2, axis2=-1)[..., None, None]
        return jnp.where(trace > 0, x / jnp.where(trace > 0, trace, 1), 0)

    power = lax.fori_loop(0, _SQUARINGS, lambda _, x: with_unit_trace(matmul(x, x)), with_unit_trace(gram))
    # A power of this height is v v^T: its column at the largest entry of the diagonal is the one to
    # divide least.
    largest = jnp.argmax(jnp.diagonal(power, axis1=-2, axis2=-1), axis=-1)[..., None, None]
    v = jnp.take_along_axis(power, largest, axis=-1)
    norm = jnp.linalg.norm(v, axis=-2, keepdims=True)
    return jnp.where(norm > 0, v / jnp.where(norm > 0, norm, 1), 0)
