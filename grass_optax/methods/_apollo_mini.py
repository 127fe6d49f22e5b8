"""APOLLO-Mini: one step size for each matrix, from a random projection of rank 1."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import tensor_scaling


def scale_by_apollo_mini(
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 128.0,
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
    """The direction of APOLLO-Mini: the gradient times one number for each matrix.

    The number is measured in a random projection P of rank 1, as in `scale_by_apollo`
    (Algorithm 1)::

      g = P^T G,   N = Adam(g)
      U = sqrt(scale) (||N||_F / ||g||_F) G
      ||U_t|| <= zeta ||U_{t-1}||

    State per matrix: 2n + 2 numbers, and m more with `store_basis`.

    Args:
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: enters as its square root, which makes up for the rank: 11.3 by default.
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
      The direction is the gradient times one number:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 8))
      >>> tx = grass_optax.scale_by_apollo_mini()
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> factors = updates / grad
      >>> round(float(factors.min() / factors.max()), 3)
      1.0

    References:
      Zhu et al., `APOLLO: SGD-like Memory, AdamW-level Performance
      <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """
    return assemble(
        subspaces.random_projection(), transport.keep(), tensor_scaling(max_norm_growth, scale),
        rank=1, update_proj_gap=update_proj_gap, lift=False, store_basis=store_basis,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def apollo_mini(
    learning_rate: optax.ScalarOrSchedule,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 128.0,
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
    """APOLLO-Mini: the raw gradient times one number for each matrix, from a projection of rank 1.

    With the direction U of `scale_by_apollo_mini`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_apollo_mini`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With the learning rate in the state, where it can be changed:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> with_rate = optax.inject_hyperparams(grass_optax.apollo_mini, ("update_proj_gap", "key"))
      >>> tx = with_rate(0.01)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 15.5, 6.9, 5.8]
      >>> round(float(state.hyperparams["learning_rate"]), 3)
      0.01

    References:
      Zhu et al., `APOLLO: SGD-like Memory, AdamW-level Performance
      <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """
    direction = scale_by_apollo_mini(
        update_proj_gap, scale=scale, b1=b1, b2=b2, max_norm_growth=max_norm_growth, store_basis=store_basis,
        inner=inner, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(1, weight_dimension_numbers),
    )  # fmt: skip
