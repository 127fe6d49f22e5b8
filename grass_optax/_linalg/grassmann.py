"""Geometry of the Grassmann manifold in matrix products only; no optimizer words.

A point of Gr(m, r) is represented by a basis S (..., m, r) with S^T S = I. Leading axes are batch
axes throughout. Bases are orthonormalised by their polar factor, computed by Newton-Schulz, and
geodesics are written in two frames and k angles; nothing but `leading_left_singular_vectors`
factorises a matrix. Everything runs at full matrix precision, because the errors of a basis outlive
the step that made them.

Members: wide, matmul, scaled_to_one, transpose, project, lift, to_tangent, exp, orthonormalize,
orthonormality_error, random_basis, random_tangent_frames, range_basis,
leading_left_singular_vectors, leading_singular_triplets, orthonormal_frame, rotation,
principal_cosines.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

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
# Weight of the Gaussian that keeps a rank-deficient matrix at full rank. Measured over shapes up to
# 512 x 1376 and ranks far below r: the part of X that the noise lets escape is 8e-4 of ||X|| at a
# weight of 1e-3 and 8e-5 at 1e-4; at 1e-5 Newton-Schulz no longer reaches an orthonormality error
# of 1e-6.
_RANGE_NOISE = 1e-4
# Squarings of a Gram matrix: the 2^16th power separates eigenvalues that differ by one part in ten
# thousand.
_SQUARINGS = 16
_LAPACK_IS_SAFE = jax.__version_info__ >= (0, 11)  # see leading_left_singular_vectors

matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def wide(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The type in which to compute with these: the widest, and float32 at least."""
    return max((jnp.dtype(t) for t in (*dtypes, jnp.float32)), key=lambda t: t.itemsize)


def scaled_to_one(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """X over its largest entry; all zero where X is zero or not finite."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    usable = jnp.isfinite(largest) & (largest > 0)
    return jnp.where(usable, x / jnp.where(usable, largest, 1), 0)


def transpose(x: Float[Array, "*b m n"]) -> Float[Array, "*b n m"]:
    """Swap the two matrix axes."""
    return jnp.swapaxes(x, -1, -2)


def project(basis: Float[Array, "*b m r"], x: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
    """Coordinates S^T X of the columns of X in the basis (eq. 1)."""
    return matmul(transpose(basis), x)


def lift(basis: Float[Array, "*b m r"], x: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
    """The columns of S X: coordinates back in the whole space."""
    return matmul(basis, x)


def rotation(new: Float[Array, "*b m r"], old: Float[Array, "*b m r"]) -> Float[Array, "*b r r"]:
    """Q = S_new^T S_old, which takes coordinates in the old basis to coordinates in the new one
    (eq. 7).
    """
    return project(new, old)


def to_tangent(basis: Float[Array, "*b m r"], x: Float[Array, "*b m k"]) -> Float[Array, "*b m k"]:
    """The part of X outside the subspace, X - S S^T X: its horizontal projection."""
    return x - lift(basis, project(basis, x))


def exp(
    basis: Float[Array, "*b m r"],
    left: Float[Array, "*b m k"],
    angles: Float[Array, "*b k"],
    right: Float[Array, "*b r k"],
) -> Float[Array, "*b m r"]:
    """The exponential map along the tangent U diag(angles) V^T, given by its singular frames (eq.
    4).

    S' = S + (S V (cos(angles) - I) + U sin(angles)) V^T, with U^T U = V^T V = I and S^T U = 0.
    Angles in radians. For k < r this is the paper's form: the r - k directions of S orthogonal to V
    stay where they are.
    """
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    return basis + matmul(lift(basis, right) * (cos - 1) + left * sin, transpose(right))


def orthonormality_error(basis: Float[Array, "*b m r"]) -> Float[Array, "*b"]:
    """The largest entry of |S^T S - I| of each matrix."""
    return _distance_to_identity(rotation(basis, basis))


def orthonormalize(x: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    """The polar factor X (X^T X)^(-1/2): the orthonormal basis of the range of X nearest to X.

    Newton-Schulz in passes: each takes the Gram matrix A = X^T X, approximates A^(-1/2) by cubic
    steps on r x r matrices, and multiplies X by it. A well-conditioned X (a Gaussian with r <= m/2)
    needs one pass, a badly conditioned one as many as its condition number asks for; a last cubic
    step squares the error that is left. X must have full column rank; batch axes iterate together.
    """
    tolerance = float(jnp.finfo(x.dtype).eps) ** 0.5

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        passes, _, gram = carry
        return (passes < _MAX_PASSES) & (jnp.nanmax(_distance_to_identity(gram)) > tolerance)

    def one_pass(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        passes, x, gram = carry
        x = matmul(x, _inverse_sqrt(gram))
        return passes + 1, x, rotation(x, x)

    x, gram = _scaled_below_one(x)
    _, x, gram = lax.while_loop(unfinished, one_pass, (jnp.int32(0), x, gram))
    return 1.5 * x - 0.5 * matmul(x, gram)


def random_basis(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: jax.typing.DTypeLike, orthonormal: bool = True
) -> Float[Array, "*b m r"]:
    """A uniformly random subspace: the orthonormal basis of a Gaussian matrix of this shape (...,
    m, r).

    With `orthonormal=False` the Gaussian's columns are only scaled to unit length (the paper's "No
    QR").
    """
    gaussian = jax.random.normal(key, shape, dtype)
    return orthonormalize(gaussian) if orthonormal else _unit_columns(gaussian)


def random_tangent_frames(
    key: Key[Array, ""], basis: Float[Array, "*b m r"], k: int
) -> tuple[Float[Array, "*b m k"], Float[Array, "*b r k"]]:
    """Singular frames (U, V) of a Gaussian tangent at S, without its SVD: both are Haar, U in the
    complement of S.

    Needs k <= min(r, m - r).
    """
    left_key, right_key = jax.random.split(key)
    *batch, m, r = basis.shape
    outside = to_tangent(basis, jax.random.normal(left_key, (*batch, m, k), basis.dtype))
    # Projected twice: what rounding leaves of S in a frame would build up over a thousand walks.
    left = to_tangent(basis, orthonormalize(outside))
    return left, random_basis(right_key, (*batch, r, k), basis.dtype)


def range_basis(
    key: Key[Array, ""], x: Float[Array, "*b m n"], rank: int, power_steps: int = 2
) -> Float[Array, "*b m r"]:
    """An orthonormal basis near the leading left singular vectors of X, by subspace iteration.

    Y <- X (X^T S), S <- polar(sqrt(r) Y/||Y||_F + 1e-4 Z/sqrt(m)), `power_steps` times from a
    Gaussian S. The noise Z keeps S orthonormal when rank(X) < r. A matrix that is zero or not
    finite gets the basis of Z alone, and so does one whose largest entry is below 1e-35 or above
    1e36 in float32.
    """
    *batch, m, _ = x.shape
    start_key, noise_key = jax.random.split(key)
    start, noise = (jax.random.normal(k, (*batch, m, rank), x.dtype) / m**0.5 for k in (start_key, noise_key))
    # X over its largest entry, without a copy of X: the narrow factors are scaled in its place.
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    scale = jnp.minimum(1 / largest, jnp.finfo(x.dtype).max)

    def step(_: Array, basis: Array) -> Array:
        y = scaled_to_one(matmul(x, scale * matmul(transpose(x), scale * basis)))
        norm = jnp.linalg.norm(y, axis=(-2, -1), keepdims=True)
        return orthonormalize(y * (rank**0.5 / jnp.where(norm > 0, norm, 1)) + _RANGE_NOISE * noise)

    return lax.fori_loop(0, power_steps, step, start)


def leading_left_singular_vectors(x: Float[Array, "*b m n"], rank: int) -> Float[Array, "*b m r"]:
    """The first `rank` left singular vectors of each X, exactly. X must be finite.

    On a CPU before jaxlib 0.11 several LAPACK calls on batches in one program can wait for each
    other for ever, so there NumPy does it, called back from the program. A program over several
    devices cannot call back that way.

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
        found = jax.pure_callback(_host_svd(rank, x.dtype), out, bits, vmap_method="sequential")
        return lax.bitcast_convert_type(found, x.dtype)

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

    V^T V = I; U is as orthogonal as rounding lets X V be, which is little where singular values are
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


def orthonormal_frame(
    x: Float[Array, "*b m k"], outside: Float[Array, "*b m r"] | None = None
) -> Float[Array, "*b m k"]:
    """The unit columns of X, each made orthogonal to those before it, and all of them to the basis
    `outside`.

    A column of which that leaves less than half becomes zero: what is left could be rounding alone.
    """

    def one(frame: Array, i: Array) -> tuple[Array, None]:
        column = lax.dynamic_slice_in_dim(x, i, 1, axis=-1)
        for _ in range(2):  # projected twice: the first time leaves the rounding of what it took away
            column = to_tangent(frame, column if outside is None else to_tangent(outside, column))
        norm = jnp.linalg.norm(column, axis=-2, keepdims=True)
        column = jnp.where(norm > 0.5, column / jnp.where(norm > 0.5, norm, 1), 0)
        return lax.dynamic_update_slice_in_dim(frame, column, i, axis=-1), None

    return lax.scan(one, jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


def principal_cosines(one: Float[Array, "*b m r"], other: Float[Array, "*b m r"]) -> Float[Array, "*b r"]:
    """Cosines of the principal angles between two subspaces, the largest first. A diagnostic: it
    takes an SVD.
    """
    return jnp.clip(jnp.linalg.svd(rotation(one, other), compute_uv=False), 0, 1)


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

    ||X||_2 <= ||A^4||_F^(1/8) with A = X^T X, at most r^(1/16) too large and exact for one column. The Frobenius norm
    is divided out first, so that the powers neither overflow nor vanish.
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


def _unit_columns(x: Float[Array, "*b m r"]) -> Float[Array, "*b m r"]:
    return x / jnp.linalg.norm(x, axis=-2, keepdims=True)


def _distance_to_identity(gram: Float[Array, "*b r r"]) -> Float[Array, "*b"]:
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    return jnp.max(jnp.abs(gram - jnp.broadcast_to(identity, gram.shape)), axis=(-2, -1))
