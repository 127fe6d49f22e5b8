"""SinkGD: SGD with rows and columns normalised in turn. Matrices have no state."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax._checks import positive
from grass_optax._inner.transforms import adam, in_float32, scaled_by
from grass_optax._linalg.scalings import sinkhorn_scaled
from grass_optax._trees import layouts
from grass_optax._trees.sides import sides_of
from grass_optax.methods._common import Mask, adam_elsewhere, with_rates


def scale_by_sinkgd(
    *,
    scale: ArrayLike = 0.05,
    iterations: int = 5,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of SinkGD: rows and columns normalised in turn, Adam for all other leaves.

    For a gradient G (inputs x outputs), the weights of each output, and then those of each input,
    are given a root mean square of 1 (SR-Sinkhorn, Algorithm 3)::

      X = G;   X_.j <- X_.j / rms(X_.j) for each j,   X_i. <- X_i. / rms(X_i.) for each i
                                                                       `iterations` times
      U = scale X

    So the first half of an iteration is the C(G) of `scale_by_column_sgd`.

    State: none for a matrix.

    Matrices are the leaves that `layouts.split_labels` calls "split" at rank 0. Embeddings, the
    output head and vectors get Adam.

    Under `optax.inject_hyperparams`, `iterations` and callables that are not schedules go to
    `static_args`.

    Args:
      scale: multiplies the direction of the matrices.
      iterations: L, the number of passes over both sides.
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
      All rows have the same norm, and after some iterations all columns too:

      >>> grad = jax.random.normal(jax.random.key(1), (4, 4))
      >>> tx = grass_optax.scale_by_sinkgd(scale=1.0, iterations=20)
      >>> direction, _ = tx.update(grad, tx.init(grad))
      >>> jnp.linalg.norm(direction, axis=0).round(2), jnp.linalg.norm(direction, axis=1).round(2)
      (Array([2., 2., 2., 2.], dtype=float32), Array([2., 2., 2., 2.], dtype=float32))

    References:
      Scetbon et al., `Gradient Multi-Normalization for Stateless and Scalable LLM Training
      <https://arxiv.org/abs/2502.06742>`_, 2025
    """
    iterations = positive("iterations", iterations)

    def scaled(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(
            lambda x, of: sinkhorn_scaled(x, of.inputs, of.outputs, iterations),
            updates,
            sides_of(updates, weight_dimension_numbers),
        )

    matrices = in_float32(optax.chain(optax.stateless(scaled), scaled_by(scale)))
    labels = layouts.split_labels(0, weight_dimension_numbers)
    return adam_elsewhere(matrices, adam(b1, b2, eps, mu_dtype, nu_dtype), labels)


def sinkgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    scale: ArrayLike = 0.05,
    iterations: int = 5,
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
    """SinkGD: SGD with rows and columns normalised in turn, and Adam for all that is not a matrix.

    With the direction U of `scale_by_sinkgd`::

      W <- W - learning_rate (U + weight_decay W)

    The arguments not listed here are those of `scale_by_sinkgd`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that get Adam; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      >>> target = jax.random.normal(jax.random.key(1), (4, 6))
      >>> params, loss = jnp.zeros((4, 6)), lambda w: jnp.mean((w - target) ** 2)
      >>> tx = grass_optax.sinkgd(0.5)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(60):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 2) for x in losses[::20]]
      [0.91, 0.29, 0.03, 0.0]

    References:
      Scetbon et al., `Gradient Multi-Normalization for Stateless and Scalable LLM Training
      <https://arxiv.org/abs/2502.06742>`_, 2025, Algorithm 4
    """
    direction = scale_by_sinkgd(
        scale=scale, iterations=iterations, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype,
        weight_dimension_numbers=weight_dimension_numbers,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(0, weight_dimension_numbers),
    )  # fmt: skip
