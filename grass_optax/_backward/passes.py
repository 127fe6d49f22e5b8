"""The two passes through a stack of layers, of which the second hands out each layer's gradient.

L is the number of layers, x_l the input of layer i, dx the derivative of the loss by it.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from grass_optax._backward.clipping import scaled
from grass_optax._backward.scanned import Batch, Params, ScannedLoss
from grass_optax._inner.int8 import from_int8
from grass_optax._trees.mesh import in_order

Carry = TypeVar("Carry")
Index = Int[Array, ""]


class Forward(NamedTuple):
    """What the forward pass leaves.

    Attributes:
      loss: the loss.
      inputs: x_l of every `keep_every`-th layer, stacked.
      context: what all layers read.
      dx: by the output of the last layer.
      of_head: gradients of what is not in layers, as far as the head reads it.
      pull_embed: maps dx at the first layer to the gradients of what the embedding reads.
      keep_every: how many layers a saved input is for.
    """

    loss: Float[Array, ""]
    inputs: PyTree
    context: PyTree
    dx: PyTree
    of_head: Params
    pull_embed: Callable[[PyTree], tuple[Params]]
    keep_every: int

    def times(self, factor: Float[Array, ""]) -> "Forward":
        """The same of the loss times a factor: all gradients are linear in these two."""
        return self._replace(dx=scaled(self.dx, factor), of_head=scaled(self.of_head, factor))


def forward(loss: ScannedLoss, params: Params, batch: Batch, keep_every: int) -> Forward:
    """Run the model, and the head backwards.

    Raises:
      ValueError: `keep_every` does not divide L.
    """
    rest, layers = loss.parted(params)
    rest = from_int8(rest)
    count = jax.tree.leaves(layers)[0].shape[0]
    if count % keep_every:
        divisors = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"keep_every is {keep_every}, but there are {count} layers. Give one of {', '.join(divisors)}."
        )
    x, pull_embed, context = jax.vjp(lambda rest: loss.embed(rest, batch), rest, has_aux=True)
    context = lax.stop_gradient(context)

    def group(x: PyTree, first: Index) -> tuple[PyTree, PyTree]:
        out, _ = _inputs(loss, lambda i: layer_at(layers, i), context, x, first + jnp.arange(keep_every))
        return out, x

    x, inputs = lax.scan(group, x, jnp.arange(0, count, keep_every))
    value, (of_head, dx) = jax.value_and_grad(loss.head, (0, 1))(rest, x, batch)
    return Forward(value, inputs, context, dx, of_head, pull_embed, keep_every)


def backward(
    loss: ScannedLoss,
    saved: Forward,
    read: Callable[[Carry, Index], Params],
    visit: Callable[[Index, Params, Carry], tuple[Carry, PyTree]],
    carry: Carry,
) -> tuple[Carry, Params, PyTree]:
    """Take the gradients of the layers one after the other, from the last to the first.

    Args:
      loss: the model.
      saved: what the forward pass left.
      read: the parameters of a layer, from the carry and its index.
      visit: given the index of a layer, its gradients and the carry, returns a new carry and what
        to keep of this layer.
      carry: what `read` and `visit` know, before the last layer.

    Returns:
      The carry after the first layer, the gradients of what is not in layers, and what was kept,
      stacked by layers.
    """

    def layer(carry: tuple[Carry, PyTree], saved_input: tuple[PyTree, Index]) -> tuple[tuple[Carry, PyTree], PyTree]:
        (own, dx), (x, i) = carry, saved_input
        _, pull = jax.vjp(lambda layer, x: loss.block(layer, x, saved.context), read(own, i), x)
        grads, dx = pull(dx)
        own, kept = visit(i, grads, own)
        return (own, dx), kept

    def group(carry: tuple[Carry, PyTree], saved_input: tuple[PyTree, Index]) -> tuple[tuple[Carry, PyTree], PyTree]:
        x, first = saved_input
        indices = first + jnp.arange(saved.keep_every)
        _, inputs = _inputs(loss, lambda i: read(carry[0], i), saved.context, x, indices)
        return lax.scan(layer, carry, (inputs, indices), reverse=True)

    groups = jax.tree.leaves(saved.inputs)[0].shape[0]
    firsts = jnp.arange(0, groups * saved.keep_every, saved.keep_every)
    f = layer if saved.keep_every == 1 else group
    (carry, dx), kept = lax.scan(f, (carry, saved.dx), (saved.inputs, firsts), reverse=True)
    if saved.keep_every > 1:
        kept = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), kept)
    (of_embed,) = saved.pull_embed(dx)
    return carry, jax.tree.map(jnp.add, saved.of_head, of_embed), kept


def _inputs(
    loss: ScannedLoss, read: Callable[[Index], Params], context: PyTree, x: PyTree, indices: Int[Array, " k"]
) -> tuple[PyTree, PyTree]:
    """The output of the last of these layers, and the inputs of all, stacked."""
    return lax.scan(lambda x, i: (loss.block(read(i), x, context), x), x, indices)


def layer_at(layers: Params, i: Index) -> Params:
    """The parameters of one layer as arrays, without the axis of layers."""
    return from_int8(jax.tree.map(lambda x: in_order(lax.dynamic_index_in_dim(x, i, 0, keepdims=False)), layers))
