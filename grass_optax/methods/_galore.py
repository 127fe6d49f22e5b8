"""GaLore: Adam in the span of the gradient's leading singular vectors."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.subspaces.gradient import SVD


def scale_by_galore(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.25,
    svd: SVD = "exact",
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
    """The direction of GaLore: Adam in the span of the gradient's leading left singular vectors.

    At t = 1 + j T the basis S is computed anew from G; what is outside the subspace is dropped
    (Algorithm 2)::

      U = scale S Adam(S^T G)

    As in the authors' code, the basis is on the smaller dimension. `optax.contrib.galore` has it on
    the larger one, and its default `scale` is 1.0. On square matrices, with the same scale and the
    same SVD, both give the same updates. State per matrix: mr + 2nr numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: alpha; it multiplies the direction.
      svd: "exact", or "randomized", which uses matrix products only and takes a fraction of the
        time.
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
      The basis spans the leading left singular vectors:

      >>> grads = {"kernel": jax.random.normal(jax.random.key(1), (4, 8))}
      >>> tx = grass_optax.scale_by_galore(rank=2)
      >>> updates, state = jax.jit(tx.update)(grads, tx.init(grads))
      >>> basis = optax.tree_utils.tree_get(state, "basis")["kernel"]
      >>> left, _, _ = jnp.linalg.svd(grads["kernel"])
      >>> cosines = grass_optax.grassmann.principal_cosines(basis, left[:, :2])
      >>> [round(float(cosine), 3) for cosine in cosines]
      [1.0, 1.0]

    References:
      Zhao et al., `GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection
      <https://arxiv.org/abs/2403.03507>`_, 2024
    """
    return assemble(
        subspaces.svd(svd), transport.keep(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def galore(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.25,
    svd: SVD = "exact",
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
    """GaLore: Adam in the span of the gradient's leading singular vectors; the rest is dropped.

    With the direction U of `scale_by_galore`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_galore`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      A stack of three layers, each with its own basis:

      >>> params = {"layers": jax.random.normal(jax.random.key(1), (3, 4, 8))}
      >>> loss = lambda p: jnp.sum(p["layers"] ** 2)
      >>> axes = {"layers": optax.contrib.MuonDimensionNumbers(1, 2)}
      >>> tx = grass_optax.galore(0.4, 2, 5, svd="randomized", weight_dimension_numbers=axes)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(20):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [117.7, 74.1, 52.1, 45.1, 38.9]
      >>> optax.tree_utils.tree_get(state, "basis")["layers"].shape
      (3, 4, 2)

    References:
      Zhao et al., `GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection
      <https://arxiv.org/abs/2403.03507>`_, 2024
    """
    direction = scale_by_galore(
        rank, update_proj_gap, scale=scale, svd=svd, b1=b1, b2=b2, inner=inner, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
