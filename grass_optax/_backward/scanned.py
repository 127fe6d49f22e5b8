"""A loss as its parts: what is before a stack of layers, one layer, and what is after it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float, PyTree

from grass_optax._inner.int8 import from_int8

Params = Any
Batch = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScannedLoss:
    """The loss of a model whose layers are alike, with their parameters stacked along axis 0.

    W are the parameters that are not in layers, and x_l is the input of layer l. What else all
    layers read, such as positions and masks, is c::

      x_0, c = embed(W, batch),    x_{l+1} = block(layer_l, x_l, c),    loss = head(W, x_L, batch)

    Calling it gives the loss, for `jax.grad` and for evaluations.

    Attributes:
      embed: (W, batch) -> (x_0, c). No gradient passes through c.
      block: (layer, x, c) -> x, of the same shapes and types.
      head: (W, x, batch) -> the loss, a scalar.
      layers: the name of the layers in the parameters, which are a mapping; W are its other items.

    Examples:
      >>> loss = grass_optax.ScannedLoss(
      ...     embed=lambda w, batch: (batch @ w["in"], None),
      ...     block=lambda layer, x, _: x + jnp.tanh(x @ layer["kernel"]),
      ...     head=lambda w, x, batch: jnp.mean((x @ w["out"] - batch) ** 2),
      ... )
      >>> params = {
      ...     "in": jnp.ones((3, 4)) / 4, "out": jnp.ones((4, 3)) / 4,
      ...     "layers": {"kernel": jnp.zeros((2, 4, 4))},  # two layers
      ... }
      >>> float(loss(params, jnp.ones((5, 3))))
      0.0625
    """

    embed: Callable[[Params, Batch], tuple[PyTree, PyTree]]
    block: Callable[[Params, PyTree, PyTree], PyTree]
    head: Callable[[Params, PyTree, Batch], Float[Array, ""]]
    layers: str = "layers"

    def __call__(self, params: Params, batch: Batch) -> Float[Array, ""]:
        """Return the loss."""
        rest, layers = self.parted(params)
        rest = from_int8(rest)
        x, context = self.embed(rest, batch)
        context = lax.stop_gradient(context)
        x, _ = lax.scan(lambda x, layer: (self.block(from_int8(layer), x, context), None), x, layers)
        return self.head(rest, x, batch)

    def parted(self, params: Params) -> tuple[Params, Params]:
        """Return the parameters that are not in layers, and those of the layers.

        Raises:
          ValueError: there are no such layers, or they are not stacked.
        """
        if not isinstance(params, Mapping) or self.layers not in params:
            given = f"have {', '.join(map(str, params))}" if isinstance(params, Mapping) else f"are {type(params)}"
            raise ValueError(
                f"the parameters must be a mapping with the layers under {self.layers!r}, but they {given}. Give the "
                "name of the stacked layers as ScannedLoss(layers=...)."
            )
        layers = params[self.layers]
        sizes = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(layers)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"the leaves of {self.layers!r} have {', '.join(map(str, sorted(sizes))) or 'no'} layers along their "
                "first axis. Stack the parameters of all layers, one or more, along axis 0."
            )
        return {name: part for name, part in params.items() if name != self.layers}, layers

    def joined(self, rest: Params, layers: Params, like: Params) -> Params:
        """Return the parameters of these parts, in the containers of `like`."""
        structure: Any = jax.tree.structure(like)
        return structure.unflatten(jax.tree.leaves({**rest, self.layers: layers}))
