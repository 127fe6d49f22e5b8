"""GWT: Adam on the approximations of a Haar transform, and the details over the same roots."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._inner.transforms import adam
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import block_scaling
from grass_optax.residual.limit import with_limit


def scale_by_gwt(
    rank: int = 128,
    *,
    scale: ArrayLike = 0.25,
    max_norm_growth: ArrayLike | None = 1.01,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of GWT: Adam on wavelet approximations, and details divided by the same roots.

    The approximations of the Haar transform at level l are g = S^T G, sums over blocks of 2^l
    neighbouring rows, divided by 2^(l/2). The details of a block make its rows of R = G - S g, and
    all of them are divided by one number, so no transform is needed. With the moments M and V of g,
    and E, which gives each row the numbers of its block (Algorithm 1, with the correction and the
    limit of the released code)::

      N = Mhat / (sqrt(Vhat) + eps),   D = f N with ||D_t|| <= zeta ||D_{t-1}||
      U = scale (S D + f R / (1 - b1^t) / (E sqrt(Vhat) + eps))

    Level l is the rank r = m / 2^l; other block sizes work too. A fold is fixed: there is no
    refresh, and no basis is stored (`subspaces.fold`, which also says which side is folded). State
    per matrix: 2nr + 2 numbers.

    Args:
      rank: r, the number of blocks of rows.
      scale: multiplies the direction.
      max_norm_growth: zeta, the most that ||D|| may grow by from one update to the next; None for
        no limit.
      b1, b2, eps: Adam's constants, in the fold and for the leaves that are not split.
      mu_dtype, nu_dtype: storage types of Adam's moments; see `scale_by_grassjump`.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.
      key: an int or a threefry key, for the rounding of moments in narrow types.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be split (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      Rows of a block are as far apart in the update as in the gradient, relative to their sums:

      >>> grad = jnp.outer(jnp.array([4.0, 6.0, 5.0, 5.0]), jnp.ones(4))
      >>> tx = grass_optax.scale_by_gwt(rank=2, scale=1.0, b1=0.0)
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> [round(float(x), 2) for x in updates[:, 0]]
      [0.57, 0.85, 0.71, 0.71]

    References:
      Wen et al., `Breaking Memory Limits: Gradient Wavelet Transform Enhances LLMs Training
      <https://arxiv.org/abs/2501.07237>`_, 2025
    """
    of_approximations = with_limit(adam(b1, b2, eps, mu_dtype, nu_dtype, key), max_norm_growth)
    return assemble(
        subspaces.fold(), transport.keep(), block_scaling(b1, b2, eps, scale),
        rank=rank, update_proj_gap=1, scale=scale, inner=of_approximations, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def gwt(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    *,
    scale: ArrayLike = 0.25,
    max_norm_growth: ArrayLike | None = 1.01,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GWT: Adam on the approximations of a Haar transform; the details share its second moment.

    With the direction U of `scale_by_gwt`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_gwt`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With a warm-up: the first details are divided by roots of few gradients.

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.gwt(optax.linear_schedule(0.0, 0.2, 20), rank=2)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(20):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 31.5, 22.7, 15.2, 11.8]

    References:
      Wen et al., `Breaking Memory Limits: Gradient Wavelet Transform Enhances LLMs Training
      <https://arxiv.org/abs/2501.07237>`_, 2025
    """
    direction = scale_by_gwt(
        rank, scale=scale, max_norm_growth=max_norm_growth, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
