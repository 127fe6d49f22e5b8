"""SCALE: SGD with gradients normalised column by column, and momentum in the output head alone.

It does not use `split_by_subspace`: nothing is projected, and among matrices only the head has a
state.
"""

from collections.abc import Hashable
from typing import Any

import jax
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers

from grass_optax._inner.narrow import storage_type
from grass_optax._inner.transforms import adam, in_float32, narrow_moments
from grass_optax._linalg.dtypes import as_shapes, as_wide_as
from grass_optax._linalg.scalings import normalized
from grass_optax._trees import layouts
from grass_optax._trees.paths import is_embedding, is_head, leaf_path, require_float
from grass_optax._trees.sides import Sides
from grass_optax.methods._common import Labels, Mask, with_rates

_HIDDEN, _EMBEDDING, _HEAD = "hidden", "embedding", "head"  # beside layouts.ADAM


def scale_by_column_sgd(
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.9,
    unit_rms: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of SCALE: normalised columns, momentum in the output head, Adam for vectors.

    For a gradient G (inputs x outputs), whose column G_j holds the weights of output j
    (Algorithm 1)::

      C(G)_j = sqrt(inputs) G_j / ||G_j||, or G_j / ||G_j|| without `unit_rms`
      hidden matrices    U = scale C(G)
      embeddings         U = C(G)
      the output head    M = momentum M + (1 - momentum) G,   U = C(M)
      all others         U = Adam(G)

    State: one number for each weight of the head, two for each entry of a vector, and none for
    other matrices, where AdamW keeps two for every weight.

    The paper's formula divides by ||G_j||. The released code, whose scripts contain the learning
    rates, divides by the root mean square, and so does this function by default. The entries of U
    are then of order 1, as Adam's are. In both cases an embedding (tokens x width) is normalised
    over its tokens.

    Hidden matrices are the leaves with dimension numbers; by default those with two axes, which are
    (input, output). Embeddings and the head are recognised by their paths, as in
    `layouts.split_labels`, and are (input, output) too if they have two axes and no dimension
    numbers of their own. A table that serves as both is an embedding: it has no momentum.

    Under `optax.inject_hyperparams`, callables that are not schedules go to `static_args`.

    Args:
      scale: multiplies the direction of hidden matrices, those that the other methods split.
      momentum: the decay rate of the head's momentum, which has no bias correction: the
        normalisation would cancel it.
      unit_rms: True gives columns a root mean square of 1, False a norm of 1.
      b1, b2: Adam's constants.
      eps: the smallest divisor of a column, and Adam's constant.
      mu_dtype: storage type of the head's momentum and of Adam's; see `scale_by_grassjump`.
      nu_dtype: storage type of Adam's second moments.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be split (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      All columns have the same norm, and only the head has a momentum:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 6))
      >>> grads = {"dense": {"kernel": grad}, "lm_head": {"kernel": grad}}
      >>> tx = grass_optax.scale_by_column_sgd(unit_rms=False)
      >>> updates, state = tx.update(grads, tx.init(grads))
      >>> [round(float(x), 3) for x in jnp.linalg.norm(updates["dense"]["kernel"], axis=0)]
      [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
      >>> jax.tree.map(jnp.shape, optax.tree_utils.tree_get(state, "ema"))
      {'dense': {'kernel': MaskedNode()}, 'lm_head': {'kernel': (4, 6)}}

    References:
      Glentis et al., `A Minimalist Optimizer Design for LLM Pretraining
      <https://arxiv.org/abs/2506.16659>`_, 2025
    """

    def columns(scale: ArrayLike) -> optax.GradientTransformation:
        return normalize_columns(scale, eps, unit_rms, weight_dimension_numbers)

    wide_type = None if storage_type("mu_dtype", mu_dtype) else mu_dtype
    average = narrow_moments(optax.ema(momentum, debias=False, accumulator_dtype=wide_type), mu_dtype)
    directions: dict[Hashable, optax.GradientTransformation] = {
        _HIDDEN: columns(scale),
        _EMBEDDING: columns(1.0),
        _HEAD: in_float32(optax.chain(average, columns(1.0))),
        layouts.ADAM: in_float32(adam(b1, b2, eps, mu_dtype, nu_dtype)),
    }
    return optax.partition(directions, _kinds(weight_dimension_numbers))


def column_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.9,
    unit_rms: bool = True,
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
    """SCALE: SGD with normalised columns, momentum in the output head, Adam for vectors.

    With the direction U of `scale_by_column_sgd`::

      W <- W - learning_rate (U + weight_decay W)

    The arguments not listed here are those of `scale_by_column_sgd`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that get Adam; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      A linear model learns to repeat its tokens:

      >>> shapes = {"embed": (9, 4), "dense": (4, 8), "lm_head": (8, 9)}
      >>> params = {name: jax.random.normal(jax.random.key(1), s) / 2 for name, s in shapes.items()}
      >>> logits = lambda p: p["embed"] @ p["dense"] @ p["lm_head"]
      >>> loss = lambda p: optax.softmax_cross_entropy(logits(p), jnp.eye(9)).mean()
      >>> tx = grass_optax.column_sgd(0.02)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(15):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [2.3, 1.6, 1.0, 0.7]

    References:
      Glentis et al., `A Minimalist Optimizer Design for LLM Pretraining
      <https://arxiv.org/abs/2506.16659>`_, 2025, Algorithm 1
    """
    direction = scale_by_column_sgd(
        scale=scale, momentum=momentum, unit_rms=unit_rms, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, weight_dimension_numbers=weight_dimension_numbers,
    )  # fmt: skip
    kinds = _kinds(weight_dimension_numbers)

    def labels(params: optax.Params) -> PyTree[str]:
        return jax.tree.map(lambda kind: kind if kind == layouts.ADAM else layouts.SPLIT, kinds(params))

    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=labels,
    )  # fmt: skip


def normalize_columns(
    scale: ArrayLike = 1.0,
    eps: ArrayLike = 1e-8,
    unit_rms: bool = True,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformation:
    """Give each column of each matrix a root mean square, or a norm, of `scale`.

    This is the C of `scale_by_column_sgd`. Every leaf must be a matrix: it has two axes, (input,
    output), or dimension numbers. Columns smaller than `eps` are divided by `eps` instead, so that
    a zero column stays zero.
    """

    def normalized_leaf(path: Any, grad: jax.Array, dims: MuonDimensionNumbers | None) -> jax.Array:
        if dims is None:
            raise ValueError(
                f"leaf {leaf_path(path)!r} of shape {grad.shape} is not a matrix and has no dimension numbers. "
                "Keep it away with optax.partition, or give it weight_dimension_numbers."
            )
        return normalized(grad, Sides.of(dims).inputs, scale, eps, unit_rms)

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PyTree]:
        updates = as_wide_as(updates, params)
        dims = _dimension_numbers(updates, weight_dimension_numbers)
        return jax.tree.map_with_path(normalized_leaf, updates, dims), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _dimension_numbers(params: optax.Params, weight_dimension_numbers: layouts.DimensionNumbersOrFn) -> PyTree:
    """The dimension numbers of every leaf, with (input, output) as the default for leaves of two
    axes.
    """

    def completed(path: Any, x: Any, dims: MuonDimensionNumbers | None) -> MuonDimensionNumbers | None:
        require_float(path, x)
        by_default = weight_dimension_numbers is None or is_embedding(path) or is_head(path)
        return layouts.MATRIX if dims is None and x.ndim == 2 and by_default else dims

    params = as_shapes(params)
    dims = layouts.dimension_numbers(params, weight_dimension_numbers)
    return jax.tree.map_with_path(completed, params, dims)


def _kinds(weight_dimension_numbers: layouts.DimensionNumbersOrFn) -> Labels:
    """A function of params to the kind of every leaf."""

    def kind(path: Any, x: jax.Array, dims: MuonDimensionNumbers | None) -> str:
        del x
        if dims is None:
            return layouts.ADAM
        if is_embedding(path):
            return _EMBEDDING
        return _HEAD if is_head(path) else _HIDDEN

    return lambda params: jax.tree.map_with_path(kind, params, _dimension_numbers(params, weight_dimension_numbers))
