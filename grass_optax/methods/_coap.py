"""COAP: a basis that steps towards gradient and momentum."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._checks import positive
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates


def scale_by_coap(
    rank: int = 128,
    update_proj_gap: int = 32,
    *,
    refreshes_per_svd: int = 5,
    scale: ArrayLike = 1.0,
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
    """The direction of COAP: GaLore with a basis that steps towards gradient and momentum.

    Every T updates the basis takes a step of SGD. Every `refreshes_per_svd` T updates it comes from
    an SVD instead. `subspaces.coap` has both steps (Algorithm 1)::

      U = scale S Adam(S^T G)

    State per matrix: mr + 2nr numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      refreshes_per_svd: lambda, the number of refreshes from one SVD to the next.
      scale: multiplies the direction.
      b1, b2, eps: Adam's constants, in the subspace and for the leaves that are not split.
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
      Steps of SGD make the basis less orthonormal; the SVD at every third refresh restores it:

      >>> grads = jax.random.normal(jax.random.key(1), (7, 6, 8))
      >>> tx = grass_optax.scale_by_coap(rank=2, update_proj_gap=1, refreshes_per_svd=3)
      >>> state, update, errors = tx.init(grads[0]), jax.jit(tx.update), []
      >>> for grad in grads:
      ...     updates, state = update(grad, state)
      ...     basis = optax.tree_utils.tree_get(state, "basis")
      ...     errors.append(grass_optax.grassmann.orthonormality_error(basis))
      >>> [round(float(x), 3) for x in errors]
      [0.0, 0.012, 0.006, 0.0, 0.013, 0.009, 0.0]

    References:
      Xiao et al., `COAP: Memory-Efficient Training with Correlation-Aware Gradient Projection
      <https://arxiv.org/abs/2412.00071>`_, 2024
    """
    refreshes = positive("refreshes_per_svd", refreshes_per_svd)
    svd_every = refreshes * positive("update_proj_gap", update_proj_gap)
    return assemble(
        subspaces.coap(svd_every), transport.keep(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def coap(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 32,
    *,
    refreshes_per_svd: int = 5,
    scale: ArrayLike = 1.0,
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
    """COAP: GaLore with a basis that steps towards gradient and momentum every T updates.

    With the direction U of `scale_by_coap`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_coap`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With an SVD at every second refresh, so at every tenth update:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.coap(0.1, rank=2, update_proj_gap=5, refreshes_per_svd=2)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(30):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::10]]
      [37.6, 10.1, 7.8, 2.5]

    References:
      Xiao et al., `COAP: Memory-Efficient Training with Correlation-Aware Gradient Projection
      <https://arxiv.org/abs/2412.00071>`_, 2024
    """
    direction = scale_by_coap(
        rank, update_proj_gap, refreshes_per_svd=refreshes_per_svd, scale=scale, b1=b1, b2=b2, inner=inner, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
