"""RACS: SGD whose rows and columns are scaled, by two diagonals for each matrix."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from grass_optax._checks import positive
from grass_optax._inner.transforms import adam, in_float32, scaled_by
from grass_optax._linalg.scalings import divided, fisher_scales, matrix_norms
from grass_optax._trees import layouts
from grass_optax._trees.boxes import without_boxes
from grass_optax._trees.sides import sides_of
from grass_optax.methods._common import Mask, adam_elsewhere, with_rates
from grass_optax.residual.limit import NormGrowthLimitState, limited, unset


class FisherState(NamedTuple):
    """State of `scale_by_racs` for the matrices, beside that of the norm-growth limit.

    Attributes:
      inputs: (..., m, 1) per leaf, in its own axes: the moving average s of the inputs.
      outputs: (..., 1, n) per leaf, in its own axes: the moving average q of the outputs.
    """

    inputs: PyTree
    outputs: PyTree


def scale_by_racs(
    *,
    scale: ArrayLike = 0.05,
    beta: ArrayLike = 0.9,
    iterations: int = 5,
    max_norm_growth: ArrayLike | None = 1.01,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of RACS: each matrix divided by two diagonals, Adam for all other leaves.

    For a gradient G (inputs x outputs) and P its squares, the two diagonals s, q whose product
    s_i q_j is nearest to P are found by power iteration (eq. 16) and averaged (Algorithm 1)::

      from q = 1:   s = P q / ||q||^2,   q = P^T s / ||s||^2    `iterations` times
      s_t = beta s_(t-1) + (1 - beta) s,   q_t = beta q_(t-1) + (1 - beta) q
      L_ij = G_ij / sqrt(s_i q_j),   ||L_t|| <= zeta ||L_(t-1)||
      U = scale L

    State per matrix: m + n + 2 numbers, one of them the count by which `norm_growth_limit` lets go;
    Algorithm 1 never does.

    The averages start at 0 and have no bias correction, so that the entries of the first L are
    1 / (1 - beta) times as large as later ones: warm the learning rate up.

    Matrices are the leaves that `layouts.split_labels` calls "split" at rank 0. Embeddings, the
    output head and vectors get Adam, as in the paper's experiments.

    Under `optax.inject_hyperparams`, `iterations` and callables that are not schedules go to
    `static_args`.

    Args:
      scale: alpha, which multiplies the direction of the matrices. The paper has 0.05 for models up
        to 350M, and 0.02 at 1.3B.
      beta: the decay rate of both averages.
      iterations: the number of power iterations.
      max_norm_growth: zeta, the largest growth of ||L|| from one update to the next; None sets no
        limit.
      b1, b2, eps: Adam's constants, for the leaves that are not matrices.
      mu_dtype, nu_dtype: storage types of Adam's moments; see `scale_by_grassjump`.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be a matrix (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      A gradient whose squares are such a product has entries of one size afterwards:

      >>> grad = jnp.outer(jnp.array([1.0, -2.0]), jnp.array([3.0, 1.0, 5.0]))
      >>> tx = grass_optax.scale_by_racs(scale=1.0, beta=0.0)
      >>> tx.update(grad, tx.init(grad))[0].round(3)
      Array([[ 1.,  1.,  1.],
             [-1., -1., -1.]], dtype=float32)

    References:
      Gong et al., `Towards Efficient Optimizer Design for LLM via Structured Fisher Approximation
      with a Low-Rank Extension <https://arxiv.org/abs/2502.07752>`_, 2025
    """
    fisher = _scale_by_fisher(beta, positive("iterations", iterations), weight_dimension_numbers)
    limit = optax.identity() if max_norm_growth is None else _limit(max_norm_growth, weight_dimension_numbers)
    matrices = without_boxes(in_float32(optax.chain(fisher, limit, scaled_by(scale))))
    labels = layouts.split_labels(0, weight_dimension_numbers)
    return adam_elsewhere(matrices, adam(b1, b2, eps, mu_dtype, nu_dtype), labels)


def racs(
    learning_rate: optax.ScalarOrSchedule,
    *,
    scale: ArrayLike = 0.05,
    beta: ArrayLike = 0.9,
    iterations: int = 5,
    max_norm_growth: ArrayLike | None = 1.01,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """RACS: SGD with scaled rows and columns, and Adam for all that is not a matrix.

    With the direction U of `scale_by_racs`::

      W <- W - learning_rate (U + weight_decay W)

    The arguments not listed here are those of `scale_by_racs`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that get Adam; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      >>> target = jax.random.normal(jax.random.key(1), (4, 6))
      >>> params, loss = jnp.zeros((4, 6)), lambda w: jnp.mean((w - target) ** 2)
      >>> tx = grass_optax.racs(0.3)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(90):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 2) for x in losses[::30]]
      [0.91, 0.09, 0.03, 0.01]

    References:
      Gong et al., `Towards Efficient Optimizer Design for LLM via Structured Fisher Approximation
      with a Low-Rank Extension <https://arxiv.org/abs/2502.07752>`_, 2025, Algorithm 1
    """
    direction = scale_by_racs(
        scale=scale, beta=beta, iterations=iterations, max_norm_growth=max_norm_growth, b1=b1, b2=b2, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, weight_dimension_numbers=weight_dimension_numbers,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(0, weight_dimension_numbers),
    )  # fmt: skip


def _scale_by_fisher(
    beta: ArrayLike, iterations: int, weight_dimension_numbers: layouts.DimensionNumbersOrFn
) -> optax.GradientTransformation:
    """L before the limit. Every leaf is a matrix, in float32 at least."""

    def init(params: optax.Params) -> FisherState:
        def zeros(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
            return jnp.zeros_like(jnp.sum(x, axes, keepdims=True))

        sides = sides_of(params, weight_dimension_numbers)
        return FisherState(
            jax.tree.map(lambda x, of: zeros(x, of.outputs), params, sides),
            jax.tree.map(lambda x, of: zeros(x, of.inputs), params, sides),
        )

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, FisherState]:
        del params
        pairs = jax.tree.map(
            lambda x, of: fisher_scales(x, of.inputs, of.outputs, iterations),
            updates,
            sides_of(updates, weight_dimension_numbers),
        )
        fresh = [jax.tree.map(lambda _, pair, i=i: pair[i], updates, pairs) for i in range(2)]

        def averaged(old: jax.Array, new: jax.Array) -> jax.Array:
            decay = jnp.asarray(beta, old.dtype)
            return decay * old + (1 - decay) * new

        state = FisherState(*(jax.tree.map(averaged, old, new) for old, new in zip(state, fresh, strict=True)))
        return jax.tree.map(divided, updates, state.inputs, state.outputs), state

    return optax.GradientTransformation(init, update)


def _limit(
    max_norm_growth: ArrayLike, weight_dimension_numbers: layouts.DimensionNumbersOrFn
) -> optax.GradientTransformation:
    """`residual.norm_growth_limit` of matrices in the axes of their leaves."""

    def norms(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x, of: matrix_norms(x, of.both), tree, sides_of(tree, weight_dimension_numbers))

    def init(params: optax.Params) -> NormGrowthLimitState:
        return unset(jax.tree.map(jnp.zeros_like, norms(params)))

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, NormGrowthLimitState]:
        del params
        factors, state = limited(norms(updates), state, max_norm_growth)
        return jax.tree.map(jnp.multiply, factors, updates), state

    return optax.GradientTransformation(init, update)
