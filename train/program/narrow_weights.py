"""Weights whose kernels are stored in 8 bits, where floats of all of them may not fit: how the
first ones are made, and how an evaluation reads them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

import grass_optax
from grass_optax import layouts
from train.program.kernels import kernel_labels
from train.program.micro_batches import Loss, ValueAndGrad
from train.program.task import Batch, Params, Parts, Task


def in_8_bits(params: Params) -> Params:
    """Store the kernels of the layers in 8 bits."""

    def is_kernel(params: Params) -> Any:
        return jax.tree.map(lambda label: label == layouts.SPLIT, kernel_labels(params))

    return grass_optax.to_int8(params, is_kernel)


def as_floats(params: Params) -> Params:
    """Return parameters of which some may be stored in 8 bits as the network reads them."""
    return grass_optax.from_int8(params)


def shapes_in_8_bits(params: Params) -> Params:
    """Return the shapes of `in_8_bits`, each with the sharding of the weight, which is of one
    device, or that of a weight that every device holds whole.
    """
    shapes = jax.eval_shape(in_8_bits, params)

    def placed(like: Any, x: Any) -> Any:
        sharding = getattr(like, "sharding", None)
        if isinstance(sharding, NamedSharding):  # blocks may cross what it cuts
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding), x)

    return jax.tree.map(
        lambda like, x: like if like.shape == getattr(x, "shape", None) else placed(like, x), params, shapes
    )


def drawn_in_8_bits(task: Task, seed: int) -> Params:
    """Draw the first weights and store them, one parameter after the other."""
    structure: Any = jax.tree.structure(jax.eval_shape(lambda: task.draw(seed)))

    @functools.partial(jax.jit, static_argnums=0)
    def part(i: int) -> Any:
        return structure.flatten_up_to(in_8_bits(task.draw(seed)))[i]  # the compiler drops the others

    return structure.unflatten([part(i) for i in range(structure.num_leaves)])


def stored_in_8_bits(params: Params) -> Params:
    """Store given weights, one parameter after the other. Those that are stored are deleted."""
    leaves = jax.tree.leaves(params)
    structure: Any = jax.tree.structure(params)
    stored = []
    for i, x in enumerate(leaves):
        alone = structure.unflatten([x if i == j else None for j in range(len(leaves))])
        narrow = structure.flatten_up_to(jax.eval_shape(in_8_bits, alone))[i]
        if isinstance(narrow, jax.ShapeDtypeStruct):  # it stays as it is
            stored.append(x)
            continue
        stored.append(jax.block_until_ready(structure.flatten_up_to(jax.jit(in_8_bits)(alone))[i]))
        x.delete()
    return structure.unflatten(stored)


def by_floats(value_and_grad: Callable[[Loss], ValueAndGrad]) -> Callable[[Loss], ValueAndGrad]:
    """Return `value_and_grad` for weights as they are stored; gradients are by floats."""
    return lambda loss: lambda params, batch: value_and_grad(loss)(as_floats(params), batch)


def predict_by_layer(parts: Parts, params: Params, batch: Batch) -> Array:
    """Return what an evaluation reads of a batch; the weights of one layer at a time are floats."""
    others = {name: x for name, x in params.items() if name != "layers"}
    x, context = parts.begin(others, batch)
    x, _ = jax.lax.scan(lambda x, layer: (parts.layer(as_floats(layer), x, context), None), x, params["layers"])
    return parts.predict(others, x, batch)
