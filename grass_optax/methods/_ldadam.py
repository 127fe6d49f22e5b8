"""LDAdam: a subspace that follows momentum and gradient, with error feedback."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import error_feedback


def scale_by_ldadam(
    rank: int = 128,
    update_proj_gap: int = 1,
    *,
    scale: ArrayLike = 1.0,
    blend: ArrayLike = 0.908,
    feedback: bool = True,
    b1: ArrayLike = 0.908,
    b2: ArrayLike = 0.99,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of LDAdam: Adam in a subspace that follows momentum and gradient at every step.

    With E the error of the updates before, and P(X) one power iteration of the basis S towards X
    (Algorithm 1 with generalised error feedback)::

      A = G + E
      S' = P(rho S M + (1 - rho) A),   moments rotated by S'^T S
      U = scale S' Adam(S'^T A)
      E <- A - S' S'^T A + b1 / (1 - b1) (S M_old - S' M)

    State per matrix: mn + mr + 2nr numbers, of which mn are E. The released code keeps E in the
    gradient's own buffer, so a gradient clip there sees E. A clip before this transformation does
    not. The first basis is that of `subspaces.range_finder`, while the released code takes an SVD.
    For later bases see `subspaces.power_iteration`.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: multiplies the direction.
      blend: rho, the weight of the momentum.
      feedback: False drops E, and its mn numbers.
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
      The first update leaves a part of the gradient out, and keeps it as the error:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 8))
      >>> tx = grass_optax.scale_by_ldadam(rank=2)
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> basis, error = (optax.tree_utils.tree_get(state, name) for name in ("basis", "error"))
      >>> left_out = grad - basis @ (basis.T @ grad)
      >>> [round(float(jnp.linalg.norm(x)), 2) for x in (left_out, error, error - left_out)]
      [2.65, 2.65, 0.0]

    References:
      Robert et al., `LDAdam: Adaptive Optimization from Low-Dimensional Gradient Statistics
      <https://arxiv.org/abs/2410.16103>`_, 2024
    """
    return assemble(
        subspaces.power_iteration(b1, blend), transport.rotate(b1, b2), error_feedback(b1) if feedback else None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(),
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def ldadam(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 1,
    *,
    scale: ArrayLike = 1.0,
    blend: ArrayLike = 0.908,
    feedback: bool = True,
    b1: ArrayLike = 0.908,
    b2: ArrayLike = 0.99,
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
    """LDAdam: Adam in a subspace that follows momentum and gradient at every step.

    With the direction U of `scale_by_ldadam`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_ldadam`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      In one dimension, with and without error feedback:

      >>> loss = lambda params: jnp.sum(params**2)
      >>> for feedback in (True, False):
      ...     params, losses = jax.random.normal(jax.random.key(1), (4, 8)), []
      ...     tx = grass_optax.ldadam(0.1, rank=1, feedback=feedback)
      ...     state, update = tx.init(params), jax.jit(tx.update)
      ...     for _ in range(21):
      ...         losses.append(round(float(loss(params)), 1))
      ...         updates, state = update(jax.grad(loss)(params), state, params)
      ...         params = optax.apply_updates(params, updates)
      ...     print(losses[::5])
      [29.6, 23.4, 18.6, 14.1, 10.4]
      [29.6, 23.7, 20.5, 18.8, 17.9]

    References:
      Robert et al., `LDAdam: Adaptive Optimization from Low-Dimensional Gradient Statistics
      <https://arxiv.org/abs/2410.16103>`_, 2024
    """
    direction = scale_by_ldadam(
        rank, update_proj_gap, scale=scale, blend=blend, feedback=feedback, b1=b1, b2=b2, inner=inner, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
