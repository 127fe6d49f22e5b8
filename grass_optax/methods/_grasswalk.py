"""GrassWalk: the GrassJump step in a subspace that walks instead of jumping."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import recovery


def scale_by_grasswalk(
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    step_size: ArrayLike | None = None,
    walk_rank: int = 1,
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
    """The direction of GrassWalk: Adam in a subspace of each matrix that takes random steps.

    The first basis is near the leading left singular vectors of the first gradient
    (`subspaces.range_finder`). At t = 1 + j T, j > 0, it moves along a random geodesic that
    rotates `walk_rank` of its r directions (eq. 4). The rest of the step is that of
    `scale_by_grassjump`.

    State per matrix: mr + 2nr + 2 numbers, where AdamW keeps 2mn.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      step_size: the angle, in radians, by which each of these directions rotates; None draws each
        angle uniformly. The paper's eta is none: its 10^4 times a random singular value is an angle
        that is uniform modulo 2 pi, so give None for it.
      walk_rank: the number of directions that rotate at a refresh, at most min(r, m - r); 1 in the
        paper.
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
      A step turns one of three directions by `step_size`:

      >>> grads = {"kernel": jax.random.normal(jax.random.key(1), (6, 8))}
      >>> tx = grass_optax.scale_by_grasswalk(rank=3, update_proj_gap=1, step_size=0.3)
      >>> state, update, bases = tx.init(grads), jax.jit(tx.update), []
      >>> for _ in range(2):
      ...     updates, state = update(grads, state)
      ...     bases.append(optax.tree_utils.tree_get(state, "basis")["kernel"])
      >>> angles = jnp.arccos(grass_optax.grassmann.principal_cosines(*bases))
      >>> [round(float(angle), 2) for angle in angles]
      [0.0, 0.0, 0.3]

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025, Algorithm 1
    """
    return assemble(
        subspaces.random_walk(step_size, walk_rank), transport.rotate(b1, b2, completion), recovery(max_norm_growth),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(),
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def grasswalk(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    step_size: ArrayLike | None = None,
    walk_rank: int = 1,
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
    """GrassWalk: Adam in a subspace of each matrix that takes a random step every T updates.

    With the direction U of `scale_by_grasswalk`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_grasswalk`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With weight decay of the kernel alone:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> decayed = {"kernel": True, "bias": False}
      >>> tx = grass_optax.grasswalk(0.1, rank=2, update_proj_gap=5, weight_decay=0.1, mask=decayed)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 20.3, 11.0, 6.4]

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025, Algorithm 1
    """
    direction = scale_by_grasswalk(
        rank, update_proj_gap, step_size=step_size, walk_rank=walk_rank, scale=scale,
        max_norm_growth=max_norm_growth, completion=completion, b1=b1, b2=b2, inner=inner, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
