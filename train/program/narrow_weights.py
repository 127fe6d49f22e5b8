"""Weights that are stored in 8 bits, where floats of all of them may not fit: how the first ones
are made, and how an evaluation reads them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from train.program.micro_batches import Loss, ValueAndGrad
from train.program.optimizer import as_floats, in_8_bits
from train.program.task import Batch, Params, Parts, Task


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
