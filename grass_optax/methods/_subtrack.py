"""SubTrack++: a subspace that follows the gradient along geodesics."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import recovery


def scale_by_subtrack(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    step_size: ArrayLike | None = None,
    tracking_rank: int = 1,
    scale: ArrayLike = 0.25,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: transport.Completion = "none",
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
    """The direction of SubTrack++: Adam in a subspace that follows the gradient along geodesics.

    The first basis is near the leading singular vectors of the first gradient. At t = 1 + j T it
    moves on the Grassmann manifold along this tangent, truncated to `tracking_rank` (eq. 3-6)::

      H = 2 (G - S S^T G) (S^T G)^T

    The rest of the step is that of `scale_by_grassjump`. The released code moves the bases of wide
    matrices only; here all move. State per matrix: mr + 2nr + 2 numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      step_size: eta, which multiplies the singular value of the tangent to give the angle (10 in
        the paper); None takes the angle that captures most of the gradient (`subspaces.tracking`).
      tracking_rank: the number of directions that rotate at a refresh; 1 in the paper.
      scale: multiplies only the low-rank part S N.
      max_norm_growth: zeta, the largest growth of ||L|| from one update to the next; None sets no
        limit.
      completion: "isotropic" restores the second moment that a move leaves behind
        (`transport.rotate`).
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
      The basis starts from another gradient, and captures more of this one at each update:

      >>> first, grad = jax.random.normal(jax.random.key(1), (2, 6, 8))
      >>> tx = grass_optax.scale_by_subtrack(rank=2, update_proj_gap=1)
      >>> state, update, captured = tx.init(first), jax.jit(tx.update), []
      >>> for g in [first, grad, grad, grad]:
      ...     updates, state = update(g, state)
      ...     basis = optax.tree_utils.tree_get(state, "basis")
      ...     captured.append(jnp.linalg.norm(basis.T @ grad) / jnp.linalg.norm(grad))
      >>> [round(float(x), 2) for x in captured]
      [0.5, 0.69, 0.72, 0.76]

    References:
      Rajabi et al., `SubTrack++: Gradient Subspace Tracking for Scalable LLM Training
      <https://arxiv.org/abs/2502.01586>`_, 2025
    """
    return assemble(
        subspaces.tracking(step_size, tracking_rank), transport.rotate(b1, b2, completion), recovery(max_norm_growth),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(),
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def subtrack(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    step_size: ArrayLike | None = None,
    tracking_rank: int = 1,
    scale: ArrayLike = 0.25,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: transport.Completion = "none",
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
    """SubTrack++: Adam in a subspace that follows the gradient along geodesics of the Grassmannian.

    With the direction U of `scale_by_subtrack`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_subtrack`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      After a gradient clip:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> subtrack = grass_optax.subtrack(0.2, rank=2, update_proj_gap=5)
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), subtrack)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 15.4, 10.5, 5.5]

    References:
      Rajabi et al., `SubTrack++: Gradient Subspace Tracking for Scalable LLM Training
      <https://arxiv.org/abs/2502.01586>`_, 2025
    """
    direction = scale_by_subtrack(
        rank, update_proj_gap, step_size=step_size, tracking_rank=tracking_rank, scale=scale,
        max_norm_growth=max_norm_growth, completion=completion, b1=b1, b2=b2, inner=inner, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
