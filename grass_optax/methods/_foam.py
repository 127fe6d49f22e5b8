"""FOAM: Adam whose moments are folded, with the residual in both of them."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from grass_optax import subspaces, transport
from grass_optax._checks import one_of
from grass_optax._inner.transforms import averaged, narrow_moments
from grass_optax._linalg.dtypes import wide
from grass_optax._trees import layouts
from grass_optax.bases import Fold
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import unfolded_adam
from grass_optax.residual.marks import split_of

SecondMoment = Literal["mean_of_squares", "square_of_means"]


def scale_by_foam(
    rank: int = 128,
    *,
    scale: ArrayLike = 0.25,
    residual_scale: ArrayLike = 1.0,
    second_moment: SecondMoment = "mean_of_squares",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of FOAM: Adam with moments that rows share, and with the residual in them.

    With A G, the means of r blocks of m/r neighbouring rows, and E, which gives each row those of
    its block (Algorithm 1, and Adam's correction of the released code)::

      M <- b1 M + (1 - b1) A G,   V <- b2 V + (1 - b2) A G^2,   R = G - E A G
      U = scale (E M + c R) / (1 - b1^t) / (sqrt((E V + c^2 R^2) / (1 - b2^t)) + eps)

    The paper's level l is the rank m / 2^l. A fold is fixed: there is no refresh, and no basis is
    stored (`subspaces.fold`, which also says which side is folded). State per matrix: 2nr numbers.

    Args:
      rank: r, the number of blocks of rows.
      scale: multiplies the direction.
      residual_scale: c.
      second_moment: "mean_of_squares" is A G^2, as in the released code; "square_of_means" is
        (A G)^2, as in the paper.
      b1, b2, eps: Adam's constants, in the fold and for the leaves that are not split.
      mu_dtype, nu_dtype: storage types of Adam's moments; see `scale_by_grassjump`.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.
      key: an int or a threefry key, for the rounding of moments in narrow types.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be split (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      Rows of a block share their moments, and only the residual tells them apart:

      >>> grad = jnp.outer(jnp.array([1.0, 7.0, 5.0, 5.0]), jnp.ones(4))  # 4 - 3, 4 + 3, 5 and 5
      >>> tx = grass_optax.scale_by_foam(rank=2, scale=1.0)
      >>> updates, state = jax.jit(tx.update)(grad, tx.init(grad))
      >>> [round(float(x), 2) for x in updates[:, 0]]
      [-0.27, 0.36, 1.0, 1.0]
      >>> optax.tree_utils.tree_get(state, "SplitState").inner_state.nu.shape
      (2, 4)

    References:
      Wen et al., `FOAM: Blocked State Folding for Memory-Efficient LLM Training
      <https://arxiv.org/abs/2512.07112>`_, 2025
    """
    by_means = one_of("second_moment", second_moment, get_args(SecondMoment)) == "square_of_means"
    by_squares = narrow_moments(_adam_of_squares(b1, b2), mu_dtype, nu_dtype, key)
    return assemble(
        subspaces.fold(), transport.keep(), unfolded_adam(b1, b2, eps, scale, residual_scale),
        rank=rank, update_proj_gap=1, lift=False, inner=None if by_means else by_squares,
        b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def foam(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    *,
    scale: ArrayLike = 0.25,
    residual_scale: ArrayLike = 1.0,
    second_moment: SecondMoment = "mean_of_squares",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """FOAM: Adam with moments that blocks of rows share, and with the residual in them.

    With the direction U of `scale_by_foam`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_foam`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = grass_optax.foam(optax.cosine_decay_schedule(0.4, 20), rank=2)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(20):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [37.6, 24.1, 17.2, 14.5, 14.1]

    References:
      Wen et al., `FOAM: Blocked State Folding for Memory-Efficient LLM Training
      <https://arxiv.org/abs/2512.07112>`_, 2025
    """
    direction = scale_by_foam(
        rank, scale=scale, residual_scale=residual_scale, second_moment=second_moment, b1=b1, b2=b2, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip


def _adam_of_squares(b1: ArrayLike, b2: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Adam's moments in a fold, the second one of the squares of all rows of a block.

    The coordinate of a block of c rows is sqrt(c) times their mean. So its second moment is c times
    the mean of their squares, the sum. What it returns is the first moment: `unfolded_adam` makes
    the direction.
    """

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        split = split_of(extra_args)

        def of_all_rows(grad: Array, basis: Fold) -> Array:
            return basis.sums(jnp.square(grad.astype(wide(grad.dtype))))

        squares = jax.tree.map(of_all_rows, split.grad, split.basis)
        mu = jax.tree.map(lambda x, m: averaged(x, m, b1), updates, state.mu)
        nu = jax.tree.map(lambda x, m: averaged(x, m, b2), squares, state.nu)
        return mu, optax.ScaleByAdamState(jnp.asarray(optax.safe_increment(state.count)), mu, nu)

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam(b1, b2).init, update)
