"""Alice: Adam along leading and random directions, and the residual with its columns normalized."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._checks import positive
from grass_optax._inner.transforms import adam, without_hats
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import compensation

_LEADING = 5 / 16  # of the rank: 40 of 128


def scale_by_alice(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.3,
    leading: int | None = None,
    compensation_scale: ArrayLike = 0.4,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9,
    b3: ArrayLike | None = 0.999,
    adam_b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of Alice: Adam along leading and random directions, and a normalized residual.

    At a refresh the basis S gets the l leading directions of the gradient and of an average of
    earlier ones inside the subspace, K, and r - l random ones (tracking and switching). Then
    (Algorithm 4)::

      g = S^T G,   K <- b3 K + (1 - b3) g g^T
      N = M / sqrt(V), moments without hats
      p_i <- b1 p_i + (1 - b1) ||(G - S g)_i||^2   for each column i
      L_i = sqrt(m - r) (G - S g)_i / sqrt(p_i),   ||L_t|| <= zeta ||L_{t-1}||
      U = scale (S N + compensation_scale L)

    State per matrix: mr + 2nr + r^2 + n + 2 numbers, one of them the count by which
    `norm_growth_limit` lets go; the paper's limiter never does. `b3=None` is the paper's Alice-0,
    which keeps no K and takes the directions from the current gradient alone.

    The moments and K are kept when the basis moves, as in the paper. The first basis takes its
    leading directions from `subspaces.range_finder`.

    Under `optax.inject_hyperparams`, `leading` goes to `static_args`.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: the number of updates from one refresh of the basis to the next.
      scale: alpha, which multiplies the direction of the split leaves.
      leading: l, the number of directions that are kept; None is 5r/16, such as 40 of 128.
      compensation_scale: alpha_c, the weight of the residual.
      b1, b2: decay rates of the moments in the subspace; b1 also of p and of Adam elsewhere.
      b3: the decay rate of K; None keeps none.
      adam_b2: b2 for the leaves that are not split.
      max_norm_growth: zeta, the largest growth of ||L|| from one update to the next; None sets no
        limit.
      inner: an Optax transformation to run inside the subspace instead of M / sqrt(V); it gets no
        weights, only their shapes.
      eps: Adam's constant, in the subspace and for the leaves that are not split.
      mu_dtype, nu_dtype: storage types of Adam's moments; see `scale_by_grassjump`.
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
      The residual has columns of one size, however large those of the gradient are:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 6)) * jnp.array([1, 1, 1, 9, 9, 9])
      >>> tx = grass_optax.scale_by_alice(rank=1, scale=1.0, b1=0.0, inner=optax.scale(0.0))
      >>> updates, _ = tx.update(grad, tx.init(grad))
      >>> jnp.linalg.norm(updates, axis=0).round(3)  # 0.4 sqrt(m - r)
      Array([0.693, 0.693, 0.693, 0.693, 0.693, 0.693], dtype=float32)

    References:
      Gong et al., `Towards Efficient Optimizer Design for LLM via Structured Fisher Approximation
      with a Low-Rank Extension <https://arxiv.org/abs/2502.07752>`_, 2025
    """
    rank = positive("rank", rank)
    leading = usual_leading(rank) if leading is None else leading
    if inner is None:
        inner = without_hats(adam(b1, b2, eps, mu_dtype, nu_dtype, key), b1, b2)
    if b3 is not None:
        inner = optax.chain(subspaces.averaged_gram(b3), inner)
    return assemble(
        subspaces.leading_and_random(leading, b3), transport.keep(),
        compensation(b1, max_norm_growth, scale=scale * compensation_scale),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale,
        inner=inner, b1=b1, b2=adam_b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def usual_leading(rank: int) -> int:
    """How many of the directions are kept unless `leading` says otherwise."""
    return max(1, round(_LEADING * rank))


def alice(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.3,
    leading: int | None = None,
    compensation_scale: ArrayLike = 0.4,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9,
    b3: ArrayLike | None = 0.999,
    adam_b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
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
    """Alice: Adam along leading and random directions, and a normalized residual.

    With the direction U of `scale_by_alice`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_alice`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      Alice-0, which remembers no directions, and a lower rate for the bias, which gets Adam:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.alice(0.1, rank=2, b3=None, adam_learning_rate=0.05)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 29.2, 22.3, 16.8]

    References:
      Gong et al., `Towards Efficient Optimizer Design for LLM via Structured Fisher Approximation
      with a Low-Rank Extension <https://arxiv.org/abs/2502.07752>`_, 2025
    """
    direction = scale_by_alice(
        rank, update_proj_gap, scale=scale, leading=leading, compensation_scale=compensation_scale, b1=b1, b2=b2, b3=b3,
        adam_b2=adam_b2, max_norm_growth=max_norm_growth, inner=inner, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype,
        basis_dtype=basis_dtype, map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
