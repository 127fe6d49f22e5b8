"""The cross-entropy of a language model from its hidden states and its head, a chunk of positions
at a time: the logits (B, T, V) are never whole.

A chunk is C positions of every row, so that a batch that is sharded over devices is computed where
it lies. `weighted_loss` finds its gradients in the forward pass, while it has the logits of a
chunk. To recompute the logits in the backward pass would not take less memory, because that pass
begins here: the gradients of hidden states and head exist at the same time in both. But it would
take a fourth product with the head beside three, and the head has most of the weights of a small
model.

Products have the type of the hidden states and accumulate in float32 at least, as does the gradient
of the head. Shape suffixes beside those of `models.blocks`:
    G group of rows   R rows of a group   N chunk   C position of a chunk
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from models.blocks import ANYWHERE, Placement


class Head(NamedTuple):
    """The weights of the output head.

    Attributes:
      weights: (D, V), or (V, D) if they are the embedding.
      axes: The order of their axes.
    """

    weights: Array
    axes: Literal["DV", "VD"] = "DV"


def token_losses(hidden_BTD: Array, head: Head, targets_BT: Array, *, chunk: int, place: Placement = ANYWHERE) -> Array:
    """Return the cross-entropy (B, T) of each target in nats, float32 at least; not to be
    differentiated, for which there is `weighted_loss`.

    Args:
      hidden_BTD: The normalised hidden states, in the type of the products.
      head: The output head.
      targets_BT: The token to predict at each position.
      chunk: Positions of each row whose logits exist at once; T need not be a multiple.
      place: Sharding constraints.
    """
    weights = _in_place(head, hidden_BTD, place)

    def step(_: None, parts: tuple[Array, ...]) -> tuple[None, Array]:
        x_GRCD, targets_GRC = parts
        logits_GRCV = _logits(x_GRCD, weights, head.axes, place)
        return None, _losses(logits_GRCV, targets_GRC, _log_sums(logits_GRCV))

    _, losses_NGRC = jax.lax.scan(step, None, _chunks((hidden_BTD, targets_BT), chunk, place))
    return _rows(losses_NGRC, targets_BT)


def weighted_loss(
    hidden_BTD: Array, head: Head, targets_BT: Array, weights_BT: Array, *, chunk: int, place: Placement = ANYWHERE
) -> Array:
    """Return the sum of weights times `token_losses`, with its own derivative; its gradients are
    found by summing over chunks, too.
    """
    return _weighted_loss(chunk, place, head.axes, hidden_BTD, head.weights, targets_BT, weights_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _weighted_loss(
    chunk: int,
    place: Placement,
    axes: Literal["DV", "VD"],
    hidden_BTD: Array,
    weights: Array,
    targets_BT: Array,
    weights_BT: Array,
) -> Array:
    losses_BT = token_losses(hidden_BTD, Head(weights, axes), targets_BT, chunk=chunk, place=place)
    return jnp.sum(weights_BT.astype(losses_BT.dtype) * losses_BT)


def _forward(
    chunk: int,
    place: Placement,
    axes: Literal["DV", "VD"],
    hidden_BTD: Array,
    weights: Array,
    targets_BT: Array,
    weights_BT: Array,
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Return the loss and, for `_backward`, its gradients."""
    head = _in_place(Head(weights, axes), hidden_BTD, place)
    dtype = _accumulated(hidden_BTD)

    def step(sum_G: Array, parts: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        x_GRCD, targets_GRC, weights_GRC = parts
        logits_GRCV = _logits(x_GRCD, head, axes, place)
        log_sums_GRC = _log_sums(logits_GRCV)
        is_target_GRCV = _is_target(logits_GRCV, targets_GRC)
        p_GRCV = jnp.exp(logits_GRCV - log_sums_GRC[..., None])
        d_GRCV = (weights_GRC[..., None] * (p_GRCV - is_target_GRCV.astype(dtype))).astype(x_GRCD.dtype)
        dx_GRCD = _product(f"GRCV,{axes}->GRCD", d_GRCV, head).astype(x_GRCD.dtype)
        # Each group sums its own part: what crosses devices is one sum, after the last chunk.
        sum_G = place.by_group(sum_G + _product(f"GRCD,GRCV->G{axes}", x_GRCD, d_GRCV))
        return sum_G, (dx_GRCD, _losses(logits_GRCV, targets_GRC, log_sums_GRC))

    zeros_G = place.by_group(jnp.zeros((place.groups, *weights.shape), dtype))
    parts = _chunks((hidden_BTD, targets_BT, weights_BT.astype(dtype)), chunk, place)
    sum_G, (dx_NGRCD, losses_NGRC) = jax.lax.scan(step, zeros_G, parts)
    losses_BT = _rows(losses_NGRC, targets_BT)
    # The compiler would keep the sum, not what it is rounded to, until it is read.
    d_weights = jax.lax.optimization_barrier(sum_G.sum(0).astype(weights.dtype))
    return jnp.sum(weights_BT.astype(dtype) * losses_BT), (_rows(dx_NGRCD, targets_BT), d_weights, losses_BT)


def _backward(
    chunk: int,
    place: Placement,
    axes: Literal["DV", "VD"],
    gradients: tuple[Array, Array, Array],
    factor: Array,
) -> tuple[Array, Array, None, Array]:
    del chunk, place, axes
    dx_BTD, d_weights, losses_BT = (factor.astype(x.dtype) * x for x in gradients)
    return dx_BTD, d_weights, None, losses_BT


_weighted_loss.defvjp(_forward, _backward)


def _in_place(head: Head, hidden_BTD: Array, place: Placement) -> Array:
    """The head in the type of the products, before the loop: inside, each chunk would gather it."""
    weights = head.weights.astype(hidden_BTD.dtype)
    return place.head(weights) if head.axes == "DV" else place.head(weights.mT).mT


def _accumulated(x: Array) -> jnp.dtype:
    return max(x.dtype, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize)


def _product(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, preferred_element_type=_accumulated(left))


def _logits(x_GRCD: Array, weights: Array, axes: str, place: Placement) -> Array:
    return place.by_group(_product(f"GRCD,{axes}->GRCV", x_GRCD, weights))


def _log_sums(logits_GRCV: Array) -> Array:
    return jax.nn.logsumexp(logits_GRCV, axis=-1)


def _is_target(logits_GRCV: Array, targets_GRC: Array) -> Array:
    """A comparison and not a look-up, which would gather a vocabulary that is sharded."""
    index_V = jnp.arange(logits_GRCV.shape[-1], dtype=targets_GRC.dtype)
    return targets_GRC[..., None] == index_V.reshape(1, 1, 1, -1)


def _losses(logits_GRCV: Array, targets_GRC: Array, log_sums_GRC: Array) -> Array:
    is_target_GRCV = _is_target(logits_GRCV, targets_GRC)
    return log_sums_GRC - jnp.sum(jnp.where(is_target_GRCV, logits_GRCV, 0), axis=-1)


def _chunks(arrays: tuple[Array, ...], chunk: int, place: Placement) -> tuple[Array, ...]:
    """Cut arrays (B, T, ...) into (N, G, R, C, ...), the last chunk filled up with zeros."""

    def cut(x: Array) -> Array:
        rows, length, *rest = x.shape
        count = -(-length // chunk)
        x = jnp.pad(x, ((0, 0), (0, count * chunk - length), *((0, 0) for _ in rest)))
        x = place.by_group(x.reshape(place.groups, rows // place.groups, count, chunk, *rest))
        return jnp.moveaxis(x, 2, 0)

    return tuple(map(cut, arrays))


def _rows(x: Array, like_BT: Array) -> Array:
    """Undo `_chunks`: (N, G, R, C, ...) to (B, T, ...)."""
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(like_BT.shape[0], -1, *x.shape[4:])[:, : like_BT.shape[1]]
