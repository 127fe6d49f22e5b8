"""FRUGAL: Adam inside the subspace and the sign outside."""

from typing import Literal, get_args

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._blocks.labels import block_labels
from grass_optax._blocks.turns import block_coordinate
from grass_optax._checks import one_of
from grass_optax._inner.transforms import adam, scaled_by
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, adam_elsewhere, assemble, with_rates
from grass_optax.residual import sign

Projection = Literal["columns", "random", "svd", "blocks"]


def scale_by_frugal(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    projection: Projection = "columns",
    active: int = 1,
    sign_scale: ArrayLike = 1.0,
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
    """The direction of FRUGAL: Adam inside a subspace, and the sign of the gradient outside.

    The moments start again from zero at each refresh (Algorithm 1)::

      U = scale (S Adam(S^T G) + sign_scale sign(G - S S^T G))

    State per matrix: 2nr numbers, and mr for the basis if `projection` is "random" or "svd". With
    "blocks" it is 2mn for each of the `active` layers, whatever the number of layers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: multiplies both parts, as in the released code.
      projection: "columns" (r coordinate axes at random, drawn again from their key at each step),
        "random" (a random subspace), "svd", or "blocks": Adam for `active` whole layers at a time,
        in random order, and the sign for the others. The layers are axis 0 of stacked leaves,
        chosen as by `scale_by_badam`; the other leaves get Adam, and `rank` is not used.
      active: the number of layers that get Adam at a time, with "blocks" only.
      sign_scale: a further factor of the sign; in the paper 1.0 for pre-training and 0.1 for
        fine-tuning.
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
      Two rows get Adam, whose first update is a sign too. The other rows get 0.1 sign(G):

      >>> grad = jax.random.normal(jax.random.key(1), (4, 8))
      >>> tx = grass_optax.scale_by_frugal(rank=2, sign_scale=0.1)
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> [round(float(size), 2) for size in (updates * jnp.sign(grad)).mean(axis=1)]
      [1.0, 0.1, 1.0, 0.1]

    References:
      Zmushko et al., `FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
      Training <https://arxiv.org/abs/2411.07837>`_, 2024
    """
    outside = sign(scale * sign_scale)
    if one_of("projection", projection, get_args(Projection)) == "blocks":
        plain_adam = adam(b1, b2, eps, mu_dtype, nu_dtype, key)
        inside = optax.chain(plain_adam if inner is None else inner, scaled_by(scale))
        layers = block_coordinate(inside, outside, switch_gap=update_proj_gap, active=active, key=key)
        return adam_elsewhere(layers, plain_adam, block_labels(0, weight_dimension_numbers))
    rules = {"columns": subspaces.columns(), "random": subspaces.random_jump(), "svd": subspaces.svd()}
    return assemble(
        rules[projection], transport.reset(), outside,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, store_basis=projection != "columns",
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def frugal(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    projection: Projection = "columns",
    active: int = 1,
    sign_scale: ArrayLike = 1.0,
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
    """FRUGAL: Adam inside a subspace, and the sign of the gradient outside.

    With the direction U of `scale_by_frugal`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_frugal`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With whole layers for subspaces, two of four at a time:

      >>> params = {"layers": jax.random.normal(jax.random.key(1), (4, 3, 5))}
      >>> loss = lambda p: jnp.sum(p["layers"] ** 2)
      >>> tx = grass_optax.frugal(0.1, update_proj_gap=5, projection="blocks", active=2)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [67.4, 28.6, 10.3, 3.0]

    References:
      Zmushko et al., `FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
      Training <https://arxiv.org/abs/2411.07837>`_, 2024
    """
    direction = scale_by_frugal(
        rank, update_proj_gap, scale=scale, projection=projection, active=active, sign_scale=sign_scale, b1=b1,
        b2=b2, inner=inner, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    split = layouts.split_labels(rank, weight_dimension_numbers)
    labels = block_labels(0, weight_dimension_numbers) if projection == "blocks" else split
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=labels,
    )  # fmt: skip
