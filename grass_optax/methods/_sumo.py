"""SUMO: orthogonalised momentum inside the subspace."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._inner.transforms import Orthogonalization, orthogonalize
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.subspaces.gradient import SVD


def scale_by_sumo(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.95,
    orthogonalization: Orthogonalization = "exact",
    svd: SVD = "randomized",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of SUMO: orthogonalised momentum in the span of leading singular vectors.

    There is no second moment (Algorithm 1)::

      M <- S_t^T S_{t-1} M               at t = 1 + j T
      M <- mu M + S^T G,   M = A Sigma B^T
      U = scale S A B^T

    The paper's norm-growth limit is left out, because ||A B^T|| is constant. State per matrix:
    mr + nr numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: multiplies the direction.
      momentum: mu.
      orthogonalization: "exact", or "newton_schulz" for Muon's five steps, which approximate it.
      svd: "exact", or "randomized", which uses matrix products only and takes a fraction of the
        time.
      b1, b2, eps: Adam's constants, for the leaves that are not split.
      inner: an Optax transformation to run inside the subspace instead of the orthogonalised
        momentum; it gets no weights, only their shapes.
      mu_dtype, nu_dtype: storage types of Adam's moments, for the leaves that are not split.
      basis_dtype: storage type of the bases; None is float32.
      map_stacks: multiply the matrices of a stack one at a time, which saves memory on a mesh.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.
      key: an int or a threefry key; all draws are a function of it.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be split (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      All singular values of the direction are equal inside the subspace, and 0 outside:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 8))
      >>> tx = grass_optax.scale_by_sumo(rank=2)
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> [round(float(x), 2) for x in jnp.linalg.svd(updates, compute_uv=False)]
      [1.0, 1.0, 0.0, 0.0]

    References:
      Refael et al., `SUMO: Subspace-Aware Moment-Orthogonalization for Accelerating
      Memory-Efficient LLM Training <https://arxiv.org/abs/2505.24749>`_, 2025
    """
    orthogonalized = optax.chain(optax.trace(momentum), orthogonalize(orthogonalization))
    return assemble(
        subspaces.svd(svd), transport.first_moment_only(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale,
        inner=orthogonalized if inner is None else inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def sumo(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.95,
    orthogonalization: Orthogonalization = "exact",
    svd: SVD = "randomized",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SUMO: momentum in the span of leading singular vectors, orthogonalised; no second moment.

    With the direction U of `scale_by_sumo`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_sumo`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With a cosine schedule and weight decay:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> rate = optax.cosine_decay_schedule(0.4, decay_steps=20)
      >>> tx = grass_optax.sumo(rate, rank=2, update_proj_gap=5, weight_decay=0.1)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(20):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 8.8, 1.3, 0.7, 0.7]

    References:
      Refael et al., `SUMO: Subspace-Aware Moment-Orthogonalization for Accelerating
      Memory-Efficient LLM Training <https://arxiv.org/abs/2505.24749>`_, 2025
    """
    direction = scale_by_sumo(
        rank, update_proj_gap, scale=scale, momentum=momentum, orthogonalization=orthogonalization, svd=svd, b1=b1,
        b2=b2, inner=inner, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
