"""A batch in several micro-batches, one after the other: their gradients are added up before the
update, so that activations take the memory of one.

Rows are dealt out so that each device keeps its own: with G groups of devices that share a batch,
micro-batch k has the k-th part of the rows of every group.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from models.blocks import Placement
from train.program.task import Batch, Params

Loss = Callable[[Params, Batch], Array]
ValueAndGrad = Callable[[Params, Batch], tuple[Array, Params]]


def accumulated(weight: Callable[[Batch], Array], count: int, place: Placement) -> Callable[[Loss], ValueAndGrad]:
    """Return what `jax.value_and_grad` is, for a mean over a batch, from `count` micro-batches.

    The mean is that of all predictions, not of the means of micro-batches. Sums are float32 at
    least; gradients have the types of the parameters.

    Args:
      weight: Returns over how many predictions the loss of a batch is the mean.
      count: Number of micro-batches; it divides the rows of each group.
      place: Sharding constraints.
    """

    def value_and_grad(loss: Loss) -> ValueAndGrad:
        def of_batch(params: Params, batch: Batch) -> tuple[Array, Params]:
            total = weight(batch)

            def step(sums: tuple[Array, Params], part: Batch) -> tuple[tuple[Array, Params], None]:
                part = jax.tree.map(place.by_group, part)
                share = weight(part) / total
                found = jax.value_and_grad(lambda params: share * loss(params, part))(params)
                return jax.tree.map(lambda sum_, x: sum_ + x.astype(sum_.dtype), sums, found), None

            zeros = jnp.zeros(()), jax.tree.map(lambda x: jnp.zeros_like(x, dtype=_wide(x)), params)
            (value, grads), _ = jax.lax.scan(step, zeros, split(batch, count, place))
            return value, jax.tree.map(lambda grad, x: grad.astype(x.dtype), grads, params)

        return of_batch

    return value_and_grad


def mapped(predict: Loss, count: int, place: Placement) -> Callable[[Params, Batch], Array]:
    """Return `predict`, which maps rows to rows, over one micro-batch at a time."""

    def of_batch(params: Params, batch: Batch) -> Array:
        parts = jax.lax.map(
            lambda part: predict(params, jax.tree.map(place.by_group, part)), split(batch, count, place)
        )
        rows = parts.reshape(count, place.groups, -1, *parts.shape[2:])
        return jnp.moveaxis(rows, 0, 1).reshape(-1, *parts.shape[2:])

    return of_batch


def split(batch: Batch, count: int, place: Placement) -> Batch:
    """Return the micro-batches: arrays (B, ...) become (count, B / count, ...)."""

    def of_array(x: Array) -> Array:
        x = place.by_group(x.reshape(place.groups, count, -1, *x.shape[1:]))
        return jnp.moveaxis(x, 1, 0).reshape(count, -1, *x.shape[3:])

    return jax.tree.map(of_array, batch)


def _wide(x: Array) -> jnp.dtype:
    return max(x.dtype, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize)
