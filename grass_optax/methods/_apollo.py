"""APOLLO: the raw gradient, with Adam's step sizes from a random projection."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import channel_scaling


def scale_by_apollo(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    store_basis: bool = False,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of APOLLO: the gradient, each column scaled as Adam would scale it.

    P is Gaussian with variance 1/r, redrawn every T updates; nothing is lifted (Algorithm 1)::

      g = P^T G,   N = Adam(g)
      U_i = sqrt(scale) (||N_i|| / ||g_i||) G_i   for each column i
      ||U_t|| <= zeta ||U_{t-1}||

    State per matrix: 2nr + 2 numbers, and mr more with `store_basis`.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: enters as its square root, as in the released code.
      b1, b2, eps: Adam's constants, in the subspace and for the leaves that are not split.
      max_norm_growth: zeta, the largest growth of ||U|| from one update to the next; None sets no
        limit.
      store_basis: True stores the projection, as the released code does; False, as in the paper,
        draws it again at each step.
      inner: an Optax transformation to run inside the subspace instead of Adam; it gets no weights,
        only their shapes.
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
      Each column of the direction is the gradient's, times a factor of its own:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 6))
      >>> tx = grass_optax.scale_by_apollo(rank=2)
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> for row in updates / grad:
      ...     print(*(round(float(factor), 1) for factor in row))
      0.9 2.8 1.0 1.5 1.1 0.7
      0.9 2.8 1.0 1.5 1.1 0.7
      0.9 2.8 1.0 1.5 1.1 0.7
      0.9 2.8 1.0 1.5 1.1 0.7

    References:
      Zhu et al., `APOLLO: SGD-like Memory, AdamW-level Performance
      <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """
    return assemble(
        subspaces.random_projection(), transport.keep(), channel_scaling(max_norm_growth, scale),
        rank=rank, update_proj_gap=update_proj_gap, lift=False, store_basis=store_basis,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def apollo(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    store_basis: bool = False,
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
    """APOLLO: the raw gradient, each column scaled as Adam scales it in a random projection.

    With the direction U of `scale_by_apollo`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_apollo`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With weight decay:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.apollo(0.05, rank=2, update_proj_gap=5, weight_decay=0.1)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 20.2, 8.5, 5.9]

    References:
      Zhu et al., `APOLLO: SGD-like Memory, AdamW-level Performance
      <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """
    direction = scale_by_apollo(
        rank, update_proj_gap, scale=scale, b1=b1, b2=b2, max_norm_growth=max_norm_growth, store_basis=store_basis,
        inner=inner, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
