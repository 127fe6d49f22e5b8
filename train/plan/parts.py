"""What the temporaries of a step consist of, as far as smaller programs can separate it.

The compiler gives one number for all temporaries. So the forward pass and the gradients are
compiled by themselves: what the forward pass leaves for the backward pass is then its result, and
everything else is a difference of two programs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from train.plan.cost import memory_of, needed, refusal
from train.program.program import Program
from train.program.sharding import placement, replicated


def parts_of(program: Program, keep_every: int = 1) -> dict[str, int | None]:
    """Return bytes of one device.

    Args:
      program: The programs of a run.
      keep_every: Layers for each saved input, if layers are updated inside the backward pass.

    Returns:
      saved: What the forward pass leaves for the backward pass, except parameters and logits.
      logits: Arrays (B, T, V) that it leaves; 0 if logits are chunked.
      chunk: Positions of each row whose logits exist at once; None for all.
      passes: What the loss with its gradients needs, parameters and batch included; None if that
        alone does not fit. Of a batch in parts it has all parts, and the sums of their gradients.
        None, too, for a step that is not loss and gradients first, and then an update.
    """
    if program.updates_in_backward:
        return {"saved": _inputs(program, keep_every), "logits": 0, "chunk": _chunk(program), "passes": None}
    saved, logits = _saved(program)
    return {"saved": saved, "logits": logits, "chunk": _chunk(program), "passes": _passes(program)}


def _saved(program: Program) -> tuple[int, int]:
    """Return the bytes that the forward pass leaves for the backward pass, and those of logits. Of
    a batch in parts one part counts, because the next one begins after the backward pass.
    """
    loss = functools.partial(program.task.loss, place=placement(program.mesh))
    arguments = program.weights, program.micro_batch

    def left(params: Any, batch: Any) -> list[Array]:
        _, pullback = jax.vjp(lambda params: loss(params, batch), params)
        leaves: list[Array] = jax.tree.leaves(pullback)
        return leaves

    traced = jax.make_jaxpr(left)(*arguments).jaxpr
    # A parameter that the backward pass reads again is no copy, nor is one array left twice.
    given = {id(variable) for variable in traced.invars}
    first = {id(variable): i for i, variable in reversed(list(enumerate(traced.outvars))) if id(variable) not in given}
    kept = [i for i in sorted(first.values()) if not _is_gradient(traced.outvars[i].aval, program)]
    shapes = [traced.outvars[i].aval for i in kept]
    vocabulary = program.task.network.vocab_size
    are_logits = [x.ndim == 3 and x.shape[-1] == vocabulary for x in shapes]  # before a mesh shards the vocabulary
    if program.mesh.size > 1:  # how they are sharded is known to the compiler alone
        compiled = jax.jit(lambda *arguments: [left(*arguments)[i] for i in kept]).lower(*arguments).compile()
        shapes = [
            jax.ShapeDtypeStruct(sharding.shard_shape(x.shape), x.dtype)
            for x, sharding in zip(shapes, compiled.output_shardings, strict=True)
        ]
    logits = [x for x, is_one in zip(shapes, are_logits, strict=True) if is_one]
    return _bytes(shapes) - _bytes(logits), _bytes(logits)


def _inputs(program: Program, keep_every: int) -> int:
    """Return the bytes of the saved inputs of layers."""
    network, tokens = program.task.network, program.batch.tokens
    rows, _ = tokens.sharding.shard_shape(tokens.shape)
    input_of_layer = rows * program.task.seq_len * network.hidden_size * jnp.dtype(network.dtype).itemsize
    return network.num_layers // keep_every * input_of_layer


def _chunk(program: Program) -> int | None:
    return getattr(program.task, "chunk", None)


def _is_gradient(array: Any, program: Program) -> bool:
    """Whether the forward pass leaves the gradient of the head, which counts as a gradient: a loss
    in chunks has it already, and leaves nothing else of this shape (`models.cross_entropy`).
    """
    network = program.task.network
    head = (network.hidden_size, network.vocab_size)
    return _chunk(program) is not None and array.shape in (head, head[::-1])


def _bytes(arrays: Sequence[Any]) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _passes(program: Program) -> int | None:
    shardings = jax.tree.map(lambda x: x.sharding, program.weights)
    gradients = jax.jit(program.value_and_grad, out_shardings=(replicated(program.mesh), shardings))
    try:
        compiled = gradients.lower(program.weights, program.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        refusal(error)
        return None
    return needed(memory_of(compiled), program.mesh.devices.flat[0])
