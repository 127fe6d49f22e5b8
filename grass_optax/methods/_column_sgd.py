"""SCALE: SGD whose gradients are normalised column by column, with momentum in the output head
alone.

It stands beside `split_by_subspace`: nothing is projected and, but for the head, nothing is kept.

Members: column_sgd, scale_by_column_sgd, normalize_columns.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from optax.contrib import MuonDimensionNumbers

from grass_optax._inner.narrow import storage_type
from grass_optax._inner.transforms import adam, in_float32, narrow_moments
from grass_optax._linalg.dtypes import wide
from grass_optax._trees import layouts

_HIDDEN, _EMBEDDING, _HEAD, _ADAM = "hidden", "embedding", "head", "adam"


class _Rates(NamedTuple):
    """What turns a direction into an update."""

    learning_rate: optax.ScalarOrSchedule
    adam_learning_rate: optax.ScalarOrSchedule | None
    weight_decay: optax.ScalarOrSchedule
    mask: Any | Callable[[optax.Params], Any] | None


def column_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    unit_rms: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SCALE: SGD with normalised columns, momentum in the output head, Adam for vectors.

    For a gradient G (inputs x outputs), whose column G_j holds the weights of output j:
      hidden matrices  U_j = scale C(G)_j      embeddings  U_j = C(G)_j
      the output head  M = momentum M + (1 - momentum) G,  U_j = C(M)_j      all others  U = Adam(G)
      C(G)_j = sqrt(inputs) G_j / ||G_j||, or G_j / ||G_j|| without `unit_rms`
      W <- W - learning_rate (U + weight_decay W)
    State: one number for each of the head, two for each of a vector, none for other matrices,
      against AdamW's two.

    The paper's formula divides by ||G_j||; its released code, whose scripts hold the learning
    rates, by the root mean square, and so does this by default. The entries of U are then of order
    1, as Adam's are. In either way an embedding (tokens x width) is normalised over its tokens.

    Which leaves are what. Hidden matrices are the leaves with dimension numbers; by default those
    with two axes, which are (input, output). Embeddings and the head are known by their path, as in
    `layouts.split_labels`, and are (input, output) too if they have two axes and no dimension
    numbers of their own. A table that serves as both is an embedding: no momentum.

    Args:
      learning_rate: a float or a schedule.
      scale: multiplies the direction of hidden matrices, those that the other methods split.
      momentum: of the head; without bias correction, which the normalisation would cancel.
      eps: the smallest number divided by, and Adam's.
      unit_rms: whether columns get a root mean square of 1, or a norm of 1.
      b1, b2: Adam's.
      weight_decay, mask: as in `optax.adamw`; for all leaves.
      weight_dimension_numbers: as in `optax.contrib.muon`, see `grassjump`.
      adam_learning_rate: of the leaves that get Adam; `learning_rate` if not given.
      mu_dtype: of the head's momentum and of Adam's; see `grassjump`.
      nu_dtype: of Adam's second moments.

    Under `optax.inject_hyperparams`, callables other than schedules go to `static_args`.

    >>> params = {"embed": jnp.ones((9, 4)), "dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = column_sgd(1e-3, scale=0.5)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates["dense"]["kernel"][0, 0]), 6)
    -0.0005

    Source: A Minimalist Optimizer Design for LLM Pretraining (Memory-Efficient LLM Pretraining via
      Minimalist Optimizer Design), arXiv 2506.16659, Algorithm 1.
    """
    rates = _Rates(learning_rate, adam_learning_rate, weight_decay, mask)
    return _column_sgd(rates, scale, momentum, eps, unit_rms, b1, b2, weight_dimension_numbers, mu_dtype, nu_dtype)


def scale_by_column_sgd(
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    unit_rms: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction U of `column_sgd`, not negated; its arguments without decay and rates.

    >>> params = {"lm_head": {"kernel": jnp.ones((4, 8))}}
    >>> tx = scale_by_column_sgd(unit_rms=False)
    >>> updates, state = tx.update(params, tx.init(params))
    >>> optax.tree_utils.tree_get(state, "ema")["lm_head"]["kernel"].shape, float(updates["lm_head"]["kernel"][0, 0])
    ((4, 8), 0.5)
    """
    return _column_sgd(None, scale, momentum, eps, unit_rms, b1, b2, weight_dimension_numbers, mu_dtype, nu_dtype)


def _column_sgd(
    rates: _Rates | None,
    scale: ArrayLike,
    momentum: ArrayLike,
    eps: ArrayLike,
    unit_rms: bool,
    b1: ArrayLike,
    b2: ArrayLike,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn,
    mu_dtype: DTypeLike | None,
    nu_dtype: DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    """One Optax transformation for each of the four kinds of leaves."""

    def kinds(params: optax.Params) -> Any:
        return jax.tree.map_with_path(_kind, params, _dimension_numbers(params, weight_dimension_numbers))

    def columns(scale: ArrayLike) -> optax.GradientTransformation:
        return normalize_columns(scale, eps, unit_rms, weight_dimension_numbers)

    wide_type = None if storage_type("mu_dtype", mu_dtype) else mu_dtype
    average = narrow_moments(optax.ema(momentum, debias=False, accumulator_dtype=wide_type), mu_dtype)
    directions: dict[Hashable, optax.GradientTransformation] = {
        _HIDDEN: columns(scale),
        _EMBEDDING: columns(1.0),
        _HEAD: in_float32(optax.chain(average, columns(1.0))),
        _ADAM: in_float32(adam(b1, b2, eps, mu_dtype, nu_dtype)),
    }
    if rates is None:
        return optax.partition(directions, kinds)
    adam_rate = rates.learning_rate if rates.adam_learning_rate is None else rates.adam_learning_rate
    decay = optax.add_decayed_weights(rates.weight_decay, rates.mask)
    updates: dict[Hashable, optax.GradientTransformation] = {
        kind: optax.chain(
            direction, decay, optax.scale_by_learning_rate(adam_rate if kind == _ADAM else rates.learning_rate)
        )
        for kind, direction in directions.items()
    }
    return optax.partition(updates, kinds)


def normalize_columns(
    scale: ArrayLike = 1.0,
    eps: ArrayLike = 1e-8,
    unit_rms: bool = True,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformation:
    """Give each column of each matrix a root mean square, or a norm, of `scale`: the C of
    `column_sgd`.

    Every leaf must be a matrix: have two axes, (input, output), or dimension numbers. What is
      smaller than `eps` is divided by `eps` instead, so that a zero column stays zero.
    """

    def normalized(path: Any, grad: jax.Array, dims: MuonDimensionNumbers | None) -> jax.Array:
        if dims is None:
            raise ValueError(
                f"leaf {layouts.leaf_path(path)!r} of shape {grad.shape} is not a matrix and has no dimension numbers. "
                "Keep it away with optax.partition, or give it weight_dimension_numbers."
            )
        return _normalized(grad, dims, scale, eps, unit_rms)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        dims = _dimension_numbers(updates, weight_dimension_numbers)
        return jax.tree.map_with_path(normalized, updates, dims), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _normalized(
    grad: jax.Array, dims: MuonDimensionNumbers, scale: ArrayLike, eps: ArrayLike, unit_rms: bool
) -> jax.Array:
    """A column is what an output's weights are: all axes of the inputs, one index along the
    others.
    """
    inputs = tuple(jax.tree.leaves(dims.reduction_axis))
    x = grad.astype(wide(grad.dtype))
    squares = jnp.square(x)
    sizes = jnp.mean(squares, inputs, keepdims=True) if unit_rms else jnp.sum(squares, inputs, keepdims=True)
    divisor = jnp.maximum(jnp.sqrt(sizes), jnp.asarray(eps, x.dtype))
    return (jnp.asarray(scale, x.dtype) * x / divisor).astype(grad.dtype)


def _dimension_numbers(params: optax.Params, weight_dimension_numbers: layouts.DimensionNumbersOrFn) -> Any:
    """Those given; without any, every leaf with two axes is (input, output); embeddings and heads
    always are.
    """

    def completed(path: Any, x: Any, dims: MuonDimensionNumbers | None) -> MuonDimensionNumbers | None:
        layouts.require_float(path, x)
        by_default = weight_dimension_numbers is None or layouts.is_embedding(path) or layouts.is_head(path)
        return layouts.MATRIX if dims is None and x.ndim == 2 and by_default else dims

    dims = layouts.dimension_numbers(params, weight_dimension_numbers)
    return jax.tree.map_with_path(completed, params, dims)


def _kind(path: Any, x: Any, dims: MuonDimensionNumbers | None) -> str:
    del x
    if dims is None:
        return _ADAM
    if layouts.is_embedding(path):
        return _EMBEDDING
    return _HEAD if layouts.is_head(path) else _HIDDEN
