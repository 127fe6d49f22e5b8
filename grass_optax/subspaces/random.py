"""Rules that draw a basis, whatever the gradient is."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree

from grass_optax._checks import one_of, positive
from grass_optax._linalg import grassmann
from grass_optax.bases import Columns, Cosine
from grass_optax.subspaces.blockwise import by_blocks
from grass_optax.subspaces.gradient import first_waves
from grass_optax.subspaces.rule import Refresh, SubspaceRule, stateless_rule, turning

RandomBasis = Literal["haar", "gaussian", "blocks", "columns", "cosine"]


def random_jump(basis: RandomBasis = "haar", blocks: int | None = None) -> SubspaceRule:
    """A fresh random basis (GrassJump, sec. 4).

    ==========  ============================================================================
    basis       how it is drawn
    ==========  ============================================================================
    "haar"      the orthonormal basis of a Gaussian: a uniformly distributed subspace
    "gaussian"  a Gaussian whose columns only have unit length, the paper's "No QR": S^T S is
                not I, and nothing corrects for it, since projection, lift and transport use
                S as it is
    "blocks"    block-diagonal, "haar" in each block (`by_blocks`)
    "columns"   coordinate axes (`columns`)
    "cosine"    cosine waves with random signs of the rows (`bases.Cosine`)
    ==========  ============================================================================

    E[S S^T] = (r/m) I for each of them.

    Args:
      basis: as in the table.
      blocks: the number of blocks, a divisor of m and r; None is `bases.number_of_blocks`.

    Returns:
      A rule without state whose S (m, r) depends on the key and on its shape alone.

    Raises:
      ValueError: an unknown basis; `blocks` with another one than "blocks"; when initialised, a
        number of blocks that does not divide m and r.

    Examples:
      >>> grad = jnp.ones((9, 16))
      >>> step = subspaces.Refresh(jax.random.key(0), jnp.int32(0), grad, jnp.eye(9, 2), None, None)
      >>> basis, _ = subspaces.random_jump().update(step)
      >>> jnp.abs(basis.T @ basis).round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025, Algorithm 1
    """
    one_of("basis", basis, get_args(RandomBasis))
    if blocks is not None and basis != "blocks":
        raise ValueError(f"blocks is {blocks}, but basis {basis!r} has none. Give basis='blocks', or leave out blocks.")
    if basis == "columns":
        return columns()
    if basis == "cosine":
        return stateless_rule(_random_waves, form=first_waves, keyed=True)
    if basis == "blocks":
        return by_blocks(random_jump(), blocks)

    def jump(refresh: Refresh) -> Float[Array, "m r"]:
        shape, dtype = refresh.basis.shape, refresh.basis.dtype
        return grassmann.random_basis(refresh.key, shape, dtype, basis == "haar")

    return stateless_rule(jump, orthonormal=basis == "haar", keyed=True)


def random_walk(step_size: ArrayLike | None = None, walk_rank: int = 1) -> SubspaceRule:
    """A random geodesic from the old basis that rotates some of its directions (GrassWalk, eq. 4).

    The paper's direction is a Gaussian projected to the tangent space and truncated to `walk_rank`
    by an SVD. The singular frames of such a matrix are uniformly distributed, so they are drawn
    directly.

    Args:
      step_size: the angle, in radians, by which every direction rotates. None draws each angle
        uniformly from [0, 2 pi), the law of the paper's step of 10^4 times a singular value.
      walk_rank: the number of directions that rotate, at most min(r, m - r), or the rule's `init`
        raises an error.

    Returns:
      A rule without state; its S (m, r) is orthonormal. It needs a first basis.

    Raises:
      ValueError: a `walk_rank` that is not an integer of at least 1.

    Examples:
      >>> grad, old = jnp.ones((9, 16)), jnp.eye(9, 2)
      >>> step = subspaces.Refresh(jax.random.key(0), jnp.int32(1), grad, old, None, None)
      >>> new, _ = subspaces.random_walk(step_size=jnp.pi / 3).update(step)
      >>> grassmann.principal_cosines(old, new).round(3)  # 1 stays, cos(pi / 3) rotates
      Array([1. , 0.5], dtype=float32)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025, Algorithm 1
    """

    walk_rank = positive("walk_rank", walk_rank)

    def update(refresh: Refresh) -> tuple[Float[Array, "m r"], PyTree]:
        frames_key, angle_key = jax.random.split(refresh.key)
        basis = refresh.basis
        left, right = grassmann.random_tangent_frames(frames_key, basis, walk_rank)
        if step_size is None:
            angles = jax.random.uniform(angle_key, (walk_rank,), basis.dtype, maxval=2 * math.pi)
        else:
            angles = jnp.broadcast_to(jnp.asarray(step_size, basis.dtype), (walk_rank,))
        return grassmann.exp_frames(basis, left, angles, right), refresh.rule_state

    return SubspaceRule(init=turning("walk_rank", walk_rank), update=update, moves=True)


def random_projection() -> SubspaceRule:
    """A Gaussian matrix with entries of variance 1/r (APOLLO).

    It keeps squared norms in expectation::

      E ||S^T x||^2 = ||x||^2

    Its columns are neither orthogonal nor of unit length: it measures norms, and is not meant for
    lifting.

    Returns:
      A rule without state whose S (m, r) depends on the key and on its shape alone.

    Examples:
      >>> grad = jnp.ones((500, 500))
      >>> step = subspaces.Refresh(jax.random.key(0), jnp.int32(0), grad, jnp.eye(500), None, None)
      >>> basis, _ = subspaces.random_projection().update(step)
      >>> (jnp.linalg.norm(basis.T @ grad) / jnp.linalg.norm(grad)).round(1)
      Array(1., dtype=float32)

    References:
      Zhu et al., `APOLLO: SGD-like Memory, AdamW-level Performance
      <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """

    def draw(refresh: Refresh) -> Float[Array, "m r"]:
        shape, dtype = refresh.basis.shape, refresh.basis.dtype
        return jax.random.normal(refresh.key, shape, dtype) / shape[-1] ** 0.5

    return stateless_rule(draw, orthonormal=False, keyed=True)


def columns() -> SubspaceRule:
    """r of the m coordinate axes, drawn without replacement (FRUGAL).

    S has a single 1 in each column.

    Returns:
      A rule without state whose S (m, r), a `bases.Columns`, depends on the key and on its shape
      alone.

    Examples:
      >>> rule = subspaces.columns()
      >>> old = rule.form((3, 2), jnp.float32)
      >>> step = subspaces.Refresh(jax.random.key(0), 0, jnp.ones((3, 4)), old, None, None)
      >>> basis = rule.update(step)[0].to_matrix()
      >>> basis.T @ basis, basis.sum().item()
      (Array([[1., 0.],
             [0., 1.]], dtype=float32), 2.0)

    References:
      Zmushko et al., `FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
      Training <https://arxiv.org/abs/2411.07837>`_, 2024
    """

    def form(basis_shape: tuple[int, int], dtype: Any) -> Columns:
        del dtype
        m, rank = basis_shape
        return Columns.of(jnp.arange(rank, dtype=jnp.int32), m)

    def draw(refresh: Refresh) -> Columns:
        m, rank = refresh.basis.places.shape[0], refresh.basis.rank
        return Columns.of(_chosen(refresh.key, m, rank), m)

    return stateless_rule(draw, form=form, keyed=True)


def _chosen(key: Key[Array, ""], m: int, rank: int) -> Int[Array, " r"]:
    """r of m numbers without replacement."""
    return jnp.argsort(jax.random.uniform(key, (m,)))[:rank].astype(jnp.int32)


def _random_waves(refresh: Refresh) -> Cosine:
    waves_key, signs_key = jax.random.split(refresh.key)
    m = refresh.basis.signs.shape[0]
    signs = jax.random.rademacher(signs_key, (m,), jnp.int8)
    return Cosine(_chosen(waves_key, m, refresh.basis.rank), signs)
