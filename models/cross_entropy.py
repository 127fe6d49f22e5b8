"""The cross-entropy of a language model from its hidden states and its head, a chunk of positions
at a time: the logits (B, T, V) are never whole.

A chunk is C positions of every row, so that a batch that is sharded over devices is computed where
it lies. `weighted_loss` finds its gradients in the forward pass, while it has the logits of a
chunk. To recompute the logits in the backward pass would not take less memory, because that pass
begins here: the gradients of hidden states and head exist at the same time in both. But it would
take a fourth product with the head beside three, and the head has most of the weights of a small
model.

The gradient of the head is then a sum over chunks in float32, twice as large as a head in bfloat16.
Where that is too much, it is found for a slice of the vocabulary at a time, from all positions.
This takes the fourth product with the head.

Products have the type of the hidden states and accumulate in float32 at least. Shape suffixes
beside those of `models.blocks`:
    G group of rows   R rows of a group   N chunk   C position of a chunk   W token of a slice
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from models.blocks import ANYWHERE, Placement

Axes = Literal["DV", "VD"]
HeadGradient = Literal["by_chunks", "by_slices"]
SLICES = 8  # of the vocabulary, or as many as there are chunks
LANES = 128  # wide slices have a multiple: accelerators store arrays in tiles of as many columns


class Head(NamedTuple):
    """The weights of the output head.

    Attributes:
      weights: (D, V), or (V, D) if they are the embedding.
      axes: The order of their axes.
    """

    weights: Array
    axes: Axes = "DV"


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
    return _losses_and_log_sums(hidden_BTD, _in_place(head, hidden_BTD, place), targets_BT, chunk, place)[0]


def _losses_and_log_sums(
    hidden_BTD: Array, head: Head, targets_BT: Array, chunk: int, place: Placement
) -> tuple[Array, Array]:
    def step(_: None, parts: tuple[Array, ...]) -> tuple[None, tuple[Array, Array]]:
        x_GRCD, targets_GRC = parts
        logits_GRCV = _logits(x_GRCD, head, place)
        log_sums_GRC = jax.nn.logsumexp(logits_GRCV, axis=-1)
        return None, (_losses(logits_GRCV, targets_GRC, log_sums_GRC), log_sums_GRC)

    _, found_NGRC = jax.lax.scan(step, None, _chunks((hidden_BTD, targets_BT), chunk, place))
    losses_BT, log_sums_BT = (_rows(x_NGRC, targets_BT) for x_NGRC in found_NGRC)
    return losses_BT, log_sums_BT


def weighted_loss(
    hidden_BTD: Array,
    head: Head,
    targets_BT: Array,
    weights_BT: Array,
    *,
    chunk: int,
    head_gradient: HeadGradient = "by_chunks",
    place: Placement = ANYWHERE,
) -> Array:
    """Return the sum of weights times `token_losses`, with its own derivative.

    Args:
      hidden_BTD: As in `token_losses`.
      head: As there.
      targets_BT: As there.
      weights_BT: The weight of each position.
      chunk: As there.
      head_gradient: How it is found. "by_chunks": as a sum over chunks, whole in float32 at least.
        "by_slices": for a slice of the vocabulary at a time, so that only what it is rounded to is
        whole. The logits are then computed twice. This is for a single device.
      place: Sharding constraints.
    """
    form = _Form(chunk, head_gradient, head.axes, place)
    return _weighted_loss(form, hidden_BTD, head.weights, targets_BT, weights_BT)


class _Form(NamedTuple):
    """What of the arguments is no array."""

    chunk: int
    head_gradient: HeadGradient
    axes: Axes
    place: Placement


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_loss(form: _Form, hidden_BTD: Array, weights: Array, targets_BT: Array, weights_BT: Array) -> Array:
    losses_BT = token_losses(hidden_BTD, Head(weights, form.axes), targets_BT, chunk=form.chunk, place=form.place)
    return jnp.sum(weights_BT.astype(losses_BT.dtype) * losses_BT)


def _forward(
    form: _Form, hidden_BTD: Array, weights: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Return the loss and, for `_backward`, its gradients."""
    by = _by_slices if form.head_gradient == "by_slices" else _by_chunks
    weights_BT = weights_BT.astype(_accumulated(hidden_BTD))
    losses_BT, dx_BTD, d_weights = by(form, hidden_BTD, weights, targets_BT, weights_BT)
    return jnp.sum(weights_BT * losses_BT), (dx_BTD, d_weights, losses_BT)


def _by_chunks(
    form: _Form, hidden_BTD: Array, weights: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, Array, Array]:
    """Losses and gradients, from the logits of a chunk of positions at a time."""
    place, axes = form.place, form.axes
    head = _in_place(Head(weights, axes), hidden_BTD, place)

    def step(sum_G: Array, parts: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        x_GRCD, targets_GRC, weights_GRC = parts
        logits_GRCV = _logits(x_GRCD, head, place)
        log_sums_GRC = jax.nn.logsumexp(logits_GRCV, axis=-1)
        is_target_GRCV = _is_target(logits_GRCV, targets_GRC)
        d_GRCV = _d_logits(logits_GRCV, log_sums_GRC, is_target_GRCV, weights_GRC).astype(x_GRCD.dtype)
        dx_GRCD = _product(f"GRCV,{axes}->GRCD", d_GRCV, head.weights).astype(x_GRCD.dtype)
        # Each group sums its own part: what crosses devices is one sum, after the last chunk.
        sum_G = place.by_group(sum_G + _product(f"GRCD,GRCV->G{axes}", x_GRCD, d_GRCV))
        return sum_G, (dx_GRCD, _losses(logits_GRCV, targets_GRC, log_sums_GRC))

    zeros_G = place.by_group(jnp.zeros((place.groups, *weights.shape), weights_BT.dtype))
    parts = _chunks((hidden_BTD, targets_BT, weights_BT), form.chunk, place)
    sum_G, (dx_NGRCD, losses_NGRC) = jax.lax.scan(step, zeros_G, parts)
    # The compiler would keep the sum, not what it is rounded to, until it is read.
    d_weights = jax.lax.optimization_barrier(sum_G.sum(0).astype(weights.dtype))
    return _rows(losses_NGRC, targets_BT), _rows(dx_NGRCD, targets_BT), d_weights


def _by_slices(
    form: _Form, hidden_BTD: Array, weights: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, Array, Array]:
    """Losses from chunks of positions, then gradients for a slice of the vocabulary at a time."""
    axes, axis = form.axes, form.axes.index("V")
    head = _in_place(Head(weights, axes), hidden_BTD, form.place)
    losses_BT, log_sums_BT = _losses_and_log_sums(hidden_BTD, head, targets_BT, form.chunk, form.place)
    size = weights.shape[axis]
    width = _width(size, chunks=-(-targets_BT.shape[1] // form.chunk))

    def step(gradients: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
        dx_BTD, d_weights = gradients
        start = jnp.minimum(first, size - width)  # the last slice overlaps the one before
        slice_ = jax.lax.dynamic_slice_in_dim(head.weights, start, width, axis)
        logits_BTW = _product(f"BTD,{axes}->BTV", hidden_BTD, slice_)
        is_target_BTW = _is_target(logits_BTW, targets_BT - start)
        d_BTW = _d_logits(logits_BTW, log_sums_BT, is_target_BTW, weights_BT).astype(hidden_BTD.dtype)
        own_BTW = jnp.where(_token(logits_BTW, first.dtype) < first - start, 0, d_BTW)
        dx_BTD += _product(f"BTV,{axes}->BTD", own_BTW, slice_)
        d_slice = _product(f"BTD,BTV->{axes}", hidden_BTD, d_BTW).astype(weights.dtype)
        return (dx_BTD, jax.lax.dynamic_update_slice_in_dim(d_weights, d_slice, start, axis)), None

    zeros = jnp.zeros(hidden_BTD.shape, weights_BT.dtype), jnp.zeros_like(weights)
    (dx_BTD, d_weights), _ = jax.lax.scan(step, zeros, jnp.arange(0, size, width, dtype=targets_BT.dtype))
    return losses_BT, dx_BTD.astype(hidden_BTD.dtype), d_weights


def _width(size: int, chunks: int) -> int:
    """How many tokens a slice has, such that about as many logits exist at once as of a chunk."""
    width = -(-size // max(SLICES, chunks))
    return min(size, -(-width // LANES) * LANES) if width > LANES else width


def _backward(form: _Form, gradients: tuple[Array, Array, Array], factor: Array) -> tuple[Array, Array, None, Array]:
    del form
    dx_BTD, d_weights, losses_BT = (factor.astype(x.dtype) * x for x in gradients)
    return dx_BTD, d_weights, None, losses_BT


_weighted_loss.defvjp(_forward, _backward)


def _in_place(head: Head, hidden_BTD: Array, place: Placement) -> Head:
    """The head in the type of the products, before the loop: inside, each chunk would gather it."""
    weights = head.weights.astype(hidden_BTD.dtype)
    return head._replace(weights=place.head(weights) if head.axes == "DV" else place.head(weights.mT).mT)


def _accumulated(x: Array) -> jnp.dtype:
    return max(x.dtype, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize)


def _product(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, preferred_element_type=_accumulated(left))


def _logits(x_GRCD: Array, head: Head, place: Placement) -> Array:
    return place.by_group(_product(f"GRCD,{head.axes}->GRCV", x_GRCD, head.weights))


def _losses(logits_GRCV: Array, targets_GRC: Array, log_sums_GRC: Array) -> Array:
    is_target_GRCV = _is_target(logits_GRCV, targets_GRC)
    return log_sums_GRC - jnp.sum(jnp.where(is_target_GRCV, logits_GRCV, 0), axis=-1)


def _is_target(logits: Array, targets: Array) -> Array:
    """A comparison and not a look-up, which would gather a vocabulary that is sharded."""
    return targets[..., None] == _token(logits, targets.dtype)


def _token(logits: Array, dtype: jnp.dtype) -> Array:
    """The number of each token, counted from the first that has logits."""
    return jax.lax.broadcasted_iota(dtype, logits.shape, logits.ndim - 1)


def _d_logits(logits: Array, log_sums: Array, is_target: Array, weights: Array) -> Array:
    """The derivatives of the weighted losses by logits, whose last axis is that of tokens."""
    p = jnp.exp(logits - log_sums[..., None])
    return weights[..., None] * (p - is_target.astype(p.dtype))


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
