"""GoLore: GaLore with random bases in the last part of a run."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.subspaces.gradient import SVD


def scale_by_golore(
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    random_start: ArrayLike,
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
    """The direction of GoLore: GaLore's bases first, and random ones once noise dominates.

    At t = 1 + j T the basis is computed from G or, after `random_start` updates, drawn at random;
    the first moment is carried over (Algorithm 1 with momentum projection)::

      M <- S_t^T S_{t-1} M      at t = 1 + j T
      U = scale S Adam(S^T G)

    The released code computes the carried moment but does not use it; this function does. State per
    matrix: mr + 2nr numbers.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      random_start: the number of updates after which refreshes are random. The paper's GoLore@20%
        of a run of N updates is 0.8 N; 0 draws all bases at random.
      scale: multiplies the direction; 0.25 as in `scale_by_galore`, while the released code has
        1.0.
      svd: the SVD of the first phase: "exact", or "randomized", which takes a fraction of the time.
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
      The basis captures most of the gradient until `random_start`, and then it is random:

      >>> grads = {"kernel": jax.random.normal(jax.random.key(1), (6, 8))}
      >>> tx = grass_optax.scale_by_golore(rank=2, update_proj_gap=1, random_start=2)
      >>> state, update, captured = tx.init(grads), jax.jit(tx.update), []
      >>> for _ in range(4):
      ...     updates, state = update(grads, state)
      ...     basis = optax.tree_utils.tree_get(state, "basis")["kernel"]
      ...     captured.append(jnp.linalg.norm(basis.T @ grads["kernel"]))
      >>> [round(float(x), 1) for x in captured]
      [6.0, 6.0, 3.6, 5.1]

    References:
      He et al., `Subspace Optimization for Large Language Models with Convergence Guarantees
      <https://arxiv.org/abs/2410.11289>`_, 2024
    """
    return assemble(
        subspaces.switch(subspaces.svd(svd), subspaces.random_jump(), random_start),
        transport.first_moment_only(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def golore(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    random_start: ArrayLike,
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
    """GoLore: GaLore's bases first, and random ones once noise dominates the gradient.

    With the direction U of `scale_by_golore`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_golore`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      GoLore@20%: the last fifth of the bases are random.

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.golore(0.4, rank=2, update_proj_gap=5, random_start=0.8 * 25)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(25):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 18.6, 10.0, 6.9, 3.9, 3.0]

    References:
      He et al., `Subspace Optimization for Large Language Models with Convergence Guarantees
      <https://arxiv.org/abs/2410.11289>`_, 2024
    """
    direction = scale_by_golore(
        rank, update_proj_gap, random_start=random_start, scale=scale, svd=svd, b1=b1, b2=b2, inner=inner, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
