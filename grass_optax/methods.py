"""The published methods, each one expression over the three axes.

For each there is `scale_by_<method>`, the direction U of the update, not negated, and `<method>`, which adds weight
decay and learning rates. Both are one `optax.partition`: the leaves that `layouts.split_labels` names are split, the
others get plain Adam.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import grassmann, layouts, residual, subspaces, transport
from grass_optax.split import split_by_subspace

Mask = Any | Callable[[optax.Params], Any]


class _Rates(NamedTuple):
    """What turns a direction into an update."""

    learning_rate: optax.ScalarOrSchedule
    adam_learning_rate: optax.ScalarOrSchedule | None
    weight_decay: optax.ScalarOrSchedule
    mask: Mask | None


def grassjump(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    orthonormal: bool = True,
    store_basis: bool = True,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    mu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """GrassJump: Adam in a random subspace of each matrix, redrawn every `update_proj_gap` updates.

    At t = 1 + j T the basis S (m x r) is drawn anew and Adam's moments are rotated by S_t^T S_{t-1} (eq. 7-8); then
      g = S^T G,  N = Adam(g),  L_i = (||N_i|| / ||g_i||) (G - S g)_i  (eq. 9),  ||L_t|| <= zeta ||L_{t-1}||  (eq. 10)
      W <- W - learning_rate (scale S N + L + weight_decay W)  (eq. 11)
    State per matrix: mr + 2nr + 1 numbers, against AdamW's 2mn.

    Which leaves are split: see `layouts.split_labels`. By default the 2-D leaves with min(m, n) > rank, except
    embeddings and the output head (a part of their path contains "embed", or is one of "wte", "wpe", "head",
    "lm_head", "output_head", "logits", "logits_dense"); with `weight_dimension_numbers` exactly those it names,
    stacked and multi-axis kernels included.

    Args:
      learning_rate: a float or a schedule.
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, updates from one jump to the next.
      scale: multiplies the low-rank part S N only; the recovered part L is not scaled.
      b1, b2, eps: Adam's, in the subspace and elsewhere.
      max_norm_growth: zeta; None switches the limit off.
      completion: "none" is the papers' transport; "isotropic" restores the second moment that a jump leaves behind
        (`transport.rotate`).
      orthonormal: False skips the orthonormalisation of the bases (`subspaces.random_jump`).
      store_basis: False draws the basis again each step; the state is 2nr + 1 numbers.
      weight_decay, mask: as in `optax.adamw`; for all leaves.
      weight_dimension_numbers: as in `optax.contrib.muon`: a tree of `MuonDimensionNumbers`, a prefix of it or a
        function of params; None for a leaf that is not split. In params that a function gets, leaves may be MaskedNode.
      adam_learning_rate: of the leaves that are not split; `learning_rate` if not given.
      mu_dtype: of the first moments.
      basis_dtype: of the stored bases.
      key: an int or a threefry key; the run is a function of it.

    Under `optax.inject_hyperparams`, `rank`, `update_proj_gap`, `key` and callables other than schedules go to
    `static_args`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = optax.chain(optax.clip_by_global_norm(1.0), grass_optax.grassjump(1e-2, rank=2))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> optax.tree_utils.tree_get(state, "basis")["dense"]["kernel"].shape
    (4, 2)

    Source: Randomized Gradient Subspaces for Efficient LLM Training, arXiv 2510.01878, Algorithm 1.
    """
    rates = _Rates(learning_rate, adam_learning_rate, weight_decay, mask)
    return _grassjump(
        rates,
        rank,
        update_proj_gap,
        scale=scale,
        b1=b1,
        b2=b2,
        eps=eps,
        max_norm_growth=max_norm_growth,
        completion=completion,
        orthonormal=orthonormal,
        store_basis=store_basis,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
        basis_dtype=basis_dtype,
        key=key,
    )


def scale_by_grassjump(
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    orthonormal: bool = True,
    store_basis: bool = True,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    mu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of `grassjump`, U = scale S N + L, not negated; its arguments without decay and rates.

    >>> params = {"kernel": jnp.ones((4, 8))}
    >>> tx = optax.chain(grass_optax.scale_by_grassjump(rank=2), optax.scale_by_learning_rate(0.1))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates["kernel"].shape
    (4, 8)
    """
    return _grassjump(
        None,
        rank,
        update_proj_gap,
        scale=scale,
        b1=b1,
        b2=b2,
        eps=eps,
        max_norm_growth=max_norm_growth,
        completion=completion,
        orthonormal=orthonormal,
        store_basis=store_basis,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
        basis_dtype=basis_dtype,
        key=key,
    )


def _grassjump(
    rates: _Rates | None,
    rank: int,
    update_proj_gap: int,
    *,
    b1: ArrayLike,
    b2: ArrayLike,
    eps: ArrayLike,
    max_norm_growth: ArrayLike | None,
    completion: str,
    orthonormal: bool,
    mu_dtype: DTypeLike | None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)
    split = split_by_subspace(
        subspaces.random_jump(orthonormal),
        adam,
        transport.rotate(b1, b2, completion),
        residual.recovery(max_norm_growth),
        rank=rank,
        update_proj_gap=update_proj_gap,
        weight_dimension_numbers=weight_dimension_numbers,
        **options,
    )
    return _partition(split, adam, rates, layouts.split_labels(rank, weight_dimension_numbers))


def grasswalk(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    step_size: ArrayLike | None = None,
    walk_rank: int = 1,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    mu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """GrassWalk: Adam in a subspace of each matrix that takes a random step every `update_proj_gap` updates.

    The first basis is near the leading left singular vectors of the first gradient (`subspaces.range_finder`); at t =
    1 + j T, j > 0, it moves along a random geodesic (eq. 4) that turns `walk_rank` of its r directions. The rest of
    the step is that of `grassjump`.
    State per matrix: mr + 2nr + 1 numbers, against AdamW's 2mn.

    Args:
      step_size: the length of the step in radians, the angle of each direction that turns; None draws each angle
        uniformly.
      walk_rank: how many directions turn at a step, at most min(r, m - r); 1 in the paper.

    The other arguments are those of `grassjump`; under `optax.inject_hyperparams`, `walk_rank` too goes to
    `static_args`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.grasswalk(optax.cosine_decay_schedule(1e-2, 1000), rank=2, step_size=0.3)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> optax.tree_utils.tree_get(state, "SplitState").inner.mu["dense"]["kernel"].shape
    (2, 8)

    Source: Randomized Gradient Subspaces for Efficient LLM Training, arXiv 2510.01878, Algorithm 1.
    """
    rates = _Rates(learning_rate, adam_learning_rate, weight_decay, mask)
    return _grasswalk(
        rates,
        rank,
        update_proj_gap,
        step_size=step_size,
        walk_rank=walk_rank,
        scale=scale,
        b1=b1,
        b2=b2,
        eps=eps,
        max_norm_growth=max_norm_growth,
        completion=completion,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
        basis_dtype=basis_dtype,
        key=key,
    )


def scale_by_grasswalk(
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    step_size: ArrayLike | None = None,
    walk_rank: int = 1,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    mu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of `grasswalk`, U = scale S N + L, not negated; its arguments without decay and rates.

    >>> params = {"kernel": jnp.ones((4, 8))}
    >>> tx = optax.chain(grass_optax.scale_by_grasswalk(rank=2), optax.scale_by_learning_rate(0.1))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates["kernel"].shape
    (4, 8)
    """
    return _grasswalk(
        None,
        rank,
        update_proj_gap,
        step_size=step_size,
        walk_rank=walk_rank,
        scale=scale,
        b1=b1,
        b2=b2,
        eps=eps,
        max_norm_growth=max_norm_growth,
        completion=completion,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
        basis_dtype=basis_dtype,
        key=key,
    )


def _grasswalk(
    rates: _Rates | None,
    rank: int,
    update_proj_gap: int,
    *,
    step_size: ArrayLike | None,
    walk_rank: int,
    b1: ArrayLike,
    b2: ArrayLike,
    eps: ArrayLike,
    max_norm_growth: ArrayLike | None,
    completion: str,
    mu_dtype: DTypeLike | None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)
    split = split_by_subspace(
        subspaces.random_walk(step_size, subspaces.positive("walk_rank", walk_rank)),
        adam,
        transport.rotate(b1, b2, completion),
        residual.recovery(max_norm_growth),
        initial=subspaces.range_finder(),
        rank=rank,
        update_proj_gap=update_proj_gap,
        weight_dimension_numbers=weight_dimension_numbers,
        **options,
    )
    return _partition(split, adam, rates, layouts.split_labels(rank, weight_dimension_numbers))


def _partition(
    split: optax.GradientTransformation,
    adam: optax.GradientTransformation,
    rates: _Rates | None,
    labels: Callable[[optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    """The split where the labels say so and Adam elsewhere, each followed by decay and rate if there are rates."""
    adam = _in_float32(adam)
    if rates is not None:
        decay = optax.add_decayed_weights(rates.weight_decay, rates.mask)
        adam_rate = rates.learning_rate if rates.adam_learning_rate is None else rates.adam_learning_rate
        split = optax.chain(split, decay, optax.scale_by_learning_rate(rates.learning_rate))
        adam = optax.chain(adam, decay, optax.scale_by_learning_rate(adam_rate))
    return optax.partition({layouts.SPLIT: split, layouts.ADAM: adam}, labels)


def _in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation with its state and arithmetic in float32 at least, as in the split: a second moment in bf16
    with b2 = 0.999 rounds back to itself and never decays.
    """

    def widened(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(_wide(x.dtype)), tree)

    def init(params: optax.Params) -> Any:
        return tx.init(widened(params))

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[Any, Any]:
        wide, state = tx.update(widened(updates), state, params)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), wide, updates), state

    return optax.GradientTransformation(init, update)


def _wide(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.complexfloating) else grassmann.wide(dtype)
