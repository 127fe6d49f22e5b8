"""Fira: GaLore with a rescaled residual."""

from typing import Literal, get_args

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._checks import one_of
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import recovery
from grass_optax.subspaces.gradient import SVD

FiraResidual = Literal["exact", "scaled"]


def scale_by_fira(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.25,
    svd: SVD = "exact",
    residual: FiraResidual = "exact",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
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
    """The direction of Fira: GaLore, plus a rescaled gradient outside its subspace.

    The basis S is that of `scale_by_galore`; outside the subspace each column of the gradient is
    scaled as Adam scaled it inside (Algorithm 1)::

      g = S^T G,   N = Adam(g)
      L_i = (||N_i|| / ||g_i||) (G - S g)_i   for each column i,   ||L_t|| <= zeta ||L_{t-1}||
      U = scale S N + L

    State per matrix: mr + 2nr + 2 numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: alpha; as in the released code, it multiplies only the low-rank part S N.
      svd: "exact", or "randomized", which uses matrix products only and takes a fraction of the
        time.
      residual: "exact" is the paper's G - S g; "scaled" is the released code's G - scale S g, which
        leaves 1 - scale of the gradient inside the subspace in L.
      b1, b2, eps: Adam's constants, in the subspace and for the leaves that are not split.
      max_norm_growth: zeta, the largest growth of ||L|| from one update to the next; None sets no
        limit.
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
      GaLore's direction has rank r. Fira's has full rank, by the part outside the subspace:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 8))
      >>> galore, fira = grass_optax.scale_by_galore(rank=2), grass_optax.scale_by_fira(rank=2)
      >>> directions = [jax.jit(tx.update)(grad, tx.init(grad))[0] for tx in (galore, fira)]
      >>> [int(jnp.linalg.matrix_rank(direction, rtol=1e-3)) for direction in directions]
      [2, 4]

    References:
      Chen et al., `Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?
      <https://arxiv.org/abs/2410.01623>`_, 2024
    """
    exact = one_of("residual", residual, get_args(FiraResidual)) == "exact"
    removed_fraction = 1.0 if exact else scale
    return assemble(
        subspaces.svd(svd), transport.keep(), recovery(max_norm_growth, removed_fraction),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def fira(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.25,
    svd: SVD = "exact",
    residual: FiraResidual = "exact",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
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
    """Fira: GaLore, plus the gradient outside its subspace, scaled column by column as by Adam.

    With the direction U of `scale_by_fira`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_fira`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With the released code's residual, and a lower rate for the bias, which gets Adam:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.fira(0.1, rank=2, residual="scaled", adam_learning_rate=0.05)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 15.2, 6.1, 2.5]

    References:
      Chen et al., `Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?
      <https://arxiv.org/abs/2410.01623>`_, 2024
    """
    direction = scale_by_fira(
        rank, update_proj_gap, scale=scale, svd=svd, residual=residual, b1=b1, b2=b2,
        max_norm_growth=max_norm_growth, inner=inner, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype,
        basis_dtype=basis_dtype, map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
