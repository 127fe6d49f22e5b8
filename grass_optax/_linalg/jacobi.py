"""Eigenvectors of small symmetric matrices, and singular vectors of small square ones, by Jacobi
rotations, half of all pairs at a time.

There is no factorisation in it, so it runs in any program: under vmap, on a mesh, on a CPU where
LAPACK calls on batches wait for each other (`spectral`). It is meant for r x r matrices at a
refresh. A sweep takes r - 1 rounds one after the other, and six or seven sweeps suffice.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from grass_optax._linalg.orthonormal import orthonormalize
from grass_optax._linalg.products import matmul, to_tangent, transpose

_MAX_SWEEPS = 12


def eigenvectors(gram: Float[Array, "*b r r"]) -> Float[Array, "*b r r"]:
    """The eigenvectors of each positive semidefinite matrix as columns, the largest eigenvalue
    first.

    In a round every index has one partner, and a rotation of each pair (p, q) makes A_pq zero::

      tau = (A_qq - A_pp) / (2 A_pq),  tan(theta) = sign(tau) / (|tau| + sqrt(1 + tau^2))

    Partners sit in two rows opposite each other, and all but the first move on by one seat after
    each round, so that all pairs have met after r - 1 rounds. A matrix that is not finite gets the
    identity, and so does zero.
    """
    rank = gram.shape[-1]
    if rank == 1:
        return jnp.ones_like(gram)
    a = _with_even_size(_with_unit_trace(gram))
    size = a.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype), a.shape)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        sweeps, a, _ = carry
        return (sweeps < _MAX_SWEEPS) & (_off_diagonal(a) > jnp.finfo(a.dtype).eps)

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        sweeps, a, rows = carry
        a, rows = lax.fori_loop(0, size - 1, lambda _, state: _round(*state), (a, rows))
        return sweeps + 1, a, rows

    _, a, rows = lax.while_loop(unfinished, sweep, (jnp.int32(0), a, identity))
    order = jnp.argsort(-_diagonal(a), axis=-1)[..., :rank, None]
    return transpose(jnp.take_along_axis(rows, order, axis=-2))[..., :rank, :]


def singular_vectors(x: Float[Array, "*b r r"]) -> tuple[Array, Array, Array]:
    """U (..., r, r), sigma (..., r) and V (..., r, r) with X = U diag(sigma) V^T, largest first.

    After the eigenvectors of X^T X, rotations act on the columns of X until all are orthogonal to
    each other, relative to their lengths. So small singular values and their vectors are right to
    the rounding of the largest, and not to its root, as those of X^T X would be. U and V are
    orthogonal also where X is singular: a column of X V below that rounding has no direction, and
    any that completes U is right. Entries are squared, so the largest should be about 1. What is
    not finite gives NaN.
    """
    start = eigenvectors(matmul(transpose(x), x))  # right to the root of rounding: most of the way
    columns, turned = _orthogonal_columns(matmul(x, start))
    right = matmul(start, turned)
    sigma = jnp.linalg.norm(columns, axis=-2)
    is_defined = (sigma > _rounding(x) * sigma[..., :1])[..., None, :]
    left = jnp.where(is_defined, columns / jnp.where(is_defined, sigma[..., None, :], 1), 0)
    # The projection to these columns has the others as eigenvectors of 0, which come last. Nearly:
    # for a large matrix with equal eigenvalues the sweeps may not suffice.
    others = to_tangent(left, eigenvectors(matmul(left, transpose(left))))
    return orthonormalize(jnp.where(is_defined, left, others)), sigma, right


def _orthogonal_columns(x: Float[Array, "*b r r"]) -> tuple[Array, Array]:
    """X V and V, the longest column of X V first."""
    rank = x.shape[-1]
    padding = rank % 2
    rows = jnp.pad(transpose(x), [(0, 0)] * (x.ndim - 2) + [(0, padding), (0, 0)])
    size = rank + padding
    identity = jnp.broadcast_to(jnp.eye(size, dtype=x.dtype), (*x.shape[:-2], size, size))
    floor = _rounding(x) * jnp.max(jnp.linalg.norm(x, axis=-2), axis=-1, keepdims=True)

    def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        sweeps, largest, _, _ = carry
        return (sweeps < _MAX_SWEEPS) & (largest > _rounding(x))

    def sweep(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        sweeps, _, rows, vectors = carry
        start = (jnp.zeros((), x.dtype), rows, vectors)
        return sweeps + 1, *lax.fori_loop(0, size - 1, lambda _, state: _round_of_rows(floor, *state), start)

    first = (jnp.int32(0), jnp.asarray(jnp.inf, x.dtype), rows, identity)
    _, _, rows, vectors = lax.while_loop(unfinished, sweep, first) if rank > 1 else first
    lengths = jnp.sum(jnp.square(rows), axis=-1)
    if padding:  # it never turns, and comes last
        lengths = jnp.where(vectors[..., -1] == 1, -1, lengths)
    order = jnp.argsort(-lengths, axis=-1)[..., :rank, None]
    rows, vectors = (transpose(jnp.take_along_axis(y, order, axis=-2)) for y in (rows, vectors))
    return rows, vectors[..., :rank, :]


def _rounding(x: Float[Array, "*b r r"]) -> float:
    """The rounding of a sum of r products of numbers of about 1."""
    return float(jnp.finfo(x.dtype).eps) * x.shape[-1]


def _round_of_rows(
    floor: Float[Array, "*b 1"],
    largest: Float[Array, ""],
    rows: Float[Array, "*b s r"],
    vectors: Float[Array, "*b s s"],
) -> Any:
    """Rotate every pair of rows to be orthogonal, then change seats; with the largest cosine of a
    pair so far, of rows above the floor.
    """
    half = rows.shape[-2] // 2
    top, bottom = rows[..., :half, :], rows[..., half:, :]
    p, q, between = (jnp.sum(a * b, axis=-1) for a, b in ((top, top), (bottom, bottom), (top, bottom)))
    is_above = (jnp.sqrt(p) > floor) & (jnp.sqrt(q) > floor)
    cosine = jnp.where(is_above, jnp.abs(between) / jnp.where(is_above, jnp.sqrt(p) * jnp.sqrt(q), 1), 0)
    turned = _turning(p, q, between)
    return jnp.maximum(largest, jnp.max(cosine)), turned(rows), turned(vectors)


def _with_unit_trace(gram: Float[Array, "*b r r"]) -> Float[Array, "*b r r"]:
    trace = jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None]
    is_usable = jnp.isfinite(trace) & (trace > 0)
    return jnp.where(is_usable, gram / jnp.where(is_usable, trace, 1), 0)


def _with_even_size(a: Float[Array, "*b r r"]) -> Float[Array, "*b s s"]:
    """A lone index gets a partner of eigenvalue -1, which comes last."""
    if a.shape[-1] % 2 == 0:
        return a
    padded = jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, 1), (0, 1)])
    return padded.at[..., -1, -1].set(-1)


def _round(a: Float[Array, "*b s s"], rows: Float[Array, "*b s s"]) -> tuple[Array, Array]:
    """Rotate every pair (i, i + s/2), then change seats. The eigenvectors gather in the rows."""
    half = a.shape[-1] // 2
    p, q = _diagonal(a[..., :half, :half]), _diagonal(a[..., half:, half:])
    between = _diagonal(a[..., :half, half:])
    turned = _turning(p, q, between)
    return transpose(turned(transpose(turned(a)))), turned(rows)


def _turning(p: Float[Array, "*b h"], q: Float[Array, "*b h"], between: Float[Array, "*b h"]) -> Any:
    """The rotation of each pair of rows that makes its entry A_pq zero, and the change of seats."""
    is_small = jnp.abs(between) <= 0.1 * jnp.finfo(p.dtype).eps * jnp.sqrt(jnp.abs(p * q))
    tau = (q - p) / jnp.where(is_small, 1, 2 * between)
    sign = jnp.where(tau < 0, -1, 1).astype(p.dtype)
    tangent = jnp.where(is_small, 0, sign / (jnp.abs(tau) + jnp.sqrt(1 + tau * tau)))
    cosine = 1 / jnp.sqrt(1 + tangent * tangent)
    sine = tangent * cosine

    def turned(x: Array) -> Array:
        half = x.shape[-2] // 2
        top, bottom, c, s = x[..., :half, :], x[..., half:, :], cosine[..., None], sine[..., None]
        return _next_seats(c * top - s * bottom, s * top + c * bottom)

    return turned


def _next_seats(top: Array, bottom: Array) -> Array:
    """The first of the top row stays; the others move on, around both rows."""
    if top.shape[-2] == 1:
        return jnp.concatenate([top, bottom], axis=-2)
    above = [top[..., :1, :], bottom[..., :1, :], top[..., 1:-1, :]]
    return jnp.concatenate([*above, bottom[..., 1:, :], top[..., -1:, :]], axis=-2)


def _diagonal(a: Array) -> Array:
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def _off_diagonal(a: Float[Array, "*b s s"]) -> Float[Array, ""]:
    """The largest entry beside the diagonal, relative to the trace."""
    is_diagonal = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=bool), a.shape)
    return jnp.max(jnp.where(is_diagonal, 0, jnp.abs(a)))
