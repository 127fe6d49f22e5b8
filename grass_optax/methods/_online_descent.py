"""Online Subspace Descent: a basis with its own optimizer."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._checks import positive
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates


def scale_by_online_subspace_descent(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
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
    """The direction of Online Subspace Descent: GaLore with a basis that learns at every update.

    The basis takes its own AdamW step, of size 1/T, at every update (Algorithm 1)::

      U = scale S Adam(S^T G)
      S <- an AdamW step down ||S S^T G' - G'||_F^2,   G' = G / ||G||_F

    State per matrix: 3mr + 2nr + 1 numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, some hundreds. 1/T is the learning rate of the basis, which a rate near 1
        would destroy. The released code also multiplies it by the current fraction of the learning
        rate's schedule.
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
      Every update moves the basis by a step of about 1/T:

      >>> grads = jax.random.normal(jax.random.key(1), (5, 6, 8))
      >>> tx = grass_optax.scale_by_online_subspace_descent(rank=2, update_proj_gap=100)
      >>> state, update, bases = tx.init(grads[0]), jax.jit(tx.update), []
      >>> for grad in grads:
      ...     updates, state = update(grad, state)
      ...     bases.append(optax.tree_utils.tree_get(state, "basis"))
      >>> [round(float(jnp.max(jnp.abs(new - old))), 2) for old, new in zip(bases, bases[1:])]
      [0.01, 0.01, 0.01, 0.01]

    References:
      Liang et al., `Memory-Efficient LLM Training with Online Subspace Descent
      <https://arxiv.org/abs/2408.12857>`_, 2024
    """
    return assemble(
        subspaces.online_descent(1 / positive("update_proj_gap", update_proj_gap)), transport.keep(), None,
        rank=rank, update_proj_gap=1, scale=scale,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def online_subspace_descent(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
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
    """Online Subspace Descent: GaLore with a basis that learns by its own gradient steps.

    With the direction U of `scale_by_online_subspace_descent`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_online_subspace_descent`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      The basis learns at a rate of 1/50, the weights at 0.1:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.online_subspace_descent(0.1, rank=2, update_proj_gap=50)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(30):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::10]]
      [37.6, 10.6, 7.3, 5.6]

    References:
      Liang et al., `Memory-Efficient LLM Training with Online Subspace Descent
      <https://arxiv.org/abs/2408.12857>`_, 2024
    """
    direction = scale_by_online_subspace_descent(
        rank, update_proj_gap, scale=scale, b1=b1, b2=b2, inner=inner, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
