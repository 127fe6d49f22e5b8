"""The compiled programs of a run and the sharding of their arrays, built from the flags alone.

Nothing here holds a number, so the memory and the traffic of a run can be found by compiling its
programs without weights.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from models.blocks import Placement
from models.cross_entropy import HeadGradient
from train.config.optimizer_flags import OptimizerFlags
from train.config.run import INT8, DataFlags, ModelFlags, UserError, WeightsName
from train.config.schedule import ScheduleFlags
from train.program.attention import with_attention
from train.program.chunks import chunk_of
from train.program.frozen import Pattern, check_patterns, parted
from train.program.measurements import diagnostics
from train.program.micro_batches import Loss, ValueAndGrad, accumulated, mapped
from train.program.narrow_weights import (
    as_floats,
    by_floats,
    drawn_in_8_bits,
    in_8_bits,
    predict_by_layer,
    stored_in_8_bits,
)
from train.program.optimizer import backward_step, make_optimizer, make_schedule, state_bytes
from train.program.sharding import (
    batch_sharding,
    check_micro_batches,
    maps_stacks,
    param_shardings,
    placed,
    placement,
    replicated,
    rows_of_a_device,
)
from train.program.speed import flops_per_token
from train.program.step import TrainState, first_state, make_backward_step, make_diagnosis, make_train_step
from train.program.task import Batch, LanguageModel, Params, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The programs of a run on a mesh."""

    mesh: Mesh
    task: Task
    tx: optax.GradientTransformation
    state: TrainState  # shapes, dtypes and shardings
    weights: Params  # shapes, dtypes and shardings of the parameters as the network reads them
    batch: Batch  # shapes, dtypes and shardings
    frozen: Pattern
    updates_in_backward: bool
    micro_batch: Batch  # shapes, dtypes and shardings; that of `batch` if it is computed at once
    value_and_grad: ValueAndGrad  # of the loss of a batch, with all parameters
    draw_state: Callable[[], TrainState]
    first_state: Callable[[Params], TrainState]  # of given weights, which are donated
    read: Callable[[Params], Params]  # the parameters as the network reads them
    train_step: jax.stages.Wrapped
    diagnose: Callable[[TrainState, Batch], Any]  # what the next update says of the subspaces, replicated
    predict: Callable[[Params, Batch], Array]  # of a batch, replicated

    @property
    def flops_per_token(self) -> float:
        """Operations that training on a token needs; see `train.program.speed`."""
        return flops_per_token(self.task.network, self.weights, self.task.seq_len)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the whole optimizer state."""
        return state_bytes(self.tx, parted(self.state.params, self.frozen)[0])


def make_program(
    mesh: Mesh,
    task: Task,
    optimizer: OptimizerFlags,
    schedule: ScheduleFlags,
    seed: int,
    *,
    frozen: Pattern = (),
    accumulate: int = 1,
    weights: WeightsName = "float",
    planned: bool = False,
) -> Program:
    """Return the programs of a run, not yet compiled.

    Args:
      mesh: The mesh to run on.
      task: The network and its loss.
      optimizer: Flags of the optimizer.
      schedule: Flags of the schedule.
      seed: Of the first weights and the subspaces.
      frozen: Patterns of the parameters that are not trained.
      accumulate: Micro-batches of a batch.
      weights: How the kernels of the layers are stored.
      planned: The CPU devices of `mesh` represent accelerators, and the programs will not run.

    Raises:
      UserError: If a parameter or a micro-batch cannot be sharded over the mesh, or a pattern names
        no parameter.
    """
    params = jax.eval_shape(lambda: task.draw(seed))
    is_int8 = weights == INT8
    options = {
        "map_stacks": maps_stacks(mesh, planned),
        "is_narrow": any(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(params)),
        "is_int8": is_int8,
    }
    tx = make_optimizer(optimizer, schedule, seed, **options)
    check_patterns(params, frozen)
    check_micro_batches(mesh, task.batch_size, accumulate)

    start = functools.partial(first_state, tx=tx, frozen=frozen)
    state = placed(mesh, tx, jax.eval_shape(start, jax.eval_shape(in_8_bits, params) if is_int8 else params), frozen)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    place_of_weights = param_shardings(mesh, params)
    place = placement(mesh)
    loss, predict, value_and_grad = _functions(task, place, accumulate, is_int8)
    rate = make_schedule(optimizer.learning_rate, schedule)
    if optimizer.update_in_backward:
        assert isinstance(task, LanguageModel), "the other tasks are refused with the flags"
        parts = task.parts(place, _head_gradient(mesh, options["is_narrow"]))
        step = backward_step(parts, optimizer, schedule, seed, **options)
        train_step = make_backward_step(step, rate, knows_norm=optimizer.clip > 0 and optimizer.clip_by == "two_pass")
    else:
        train_step = make_train_step(loss, tx, rate, frozen, value_and_grad)
    draw_state, state_of = _beginnings(task, seed, start, shardings, is_int8)
    return Program(
        mesh=mesh,
        task=task,
        tx=tx,
        state=state,
        weights=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, place_of_weights),
        batch=_batch(mesh, task),
        frozen=frozen,
        updates_in_backward=optimizer.update_in_backward,
        micro_batch=_batch(mesh, task, accumulate),
        value_and_grad=value_and_grad(loss),
        draw_state=draw_state,
        first_state=state_of,
        read=jax.jit(as_floats, out_shardings=place_of_weights) if is_int8 else _as_they_are,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))),
        diagnose=jax.jit(
            make_diagnosis(loss, tx, functools.partial(diagnostics, optimizer), frozen, value_and_grad),
            out_shardings=replicated(mesh),
        ),
        predict=jax.jit(predict, out_shardings=replicated(mesh)),
    )


def _functions(
    task: Task, place: Placement, accumulate: int, is_int8: bool
) -> tuple[Loss, Callable[[Params, Batch], Array], Callable[[Loss], ValueAndGrad]]:
    """Return the loss of a batch, the losses of its rows, and how the first is differentiated, of
    parameters as they are stored.
    """
    loss, predict = (functools.partial(function, place=place) for function in (task.loss, task.predict))
    value_and_grad: Callable[[Loss], ValueAndGrad] = (
        accumulated(task.weight, accumulate, place) if accumulate > 1 else jax.value_and_grad
    )
    if is_int8:
        assert isinstance(task, LanguageModel), "the other tasks are refused with the flags"
        predict = functools.partial(predict_by_layer, task.parts(place))
        value_and_grad = by_floats(value_and_grad)
    return loss, mapped(predict, accumulate, place) if accumulate > 1 else predict, value_and_grad


def _head_gradient(mesh: Mesh, is_narrow: bool) -> HeadGradient:
    """Return how the gradient of the head is found: of narrow weights it would be twice their size
    in float32.
    """
    return "by_slices" if is_narrow and mesh.size == 1 else "by_chunks"


def _beginnings(
    task: Task, seed: int, start: Callable[[Params], TrainState], shardings: TrainState, is_int8: bool
) -> tuple[Callable[[], TrainState], Callable[[Params], TrainState]]:
    """Return what draws a first state, and what makes one of given weights."""
    state_of = jax.jit(start, donate_argnums=0, out_shardings=shardings)
    if is_int8:
        return lambda: state_of(drawn_in_8_bits(task, seed)), lambda params: state_of(stored_in_8_bits(params))
    # Under jit each device draws only its own shard of the state.
    return jax.jit(lambda: start(task.draw(seed)), out_shardings=shardings), state_of


def _as_they_are(params: Params) -> Params:
    return params


def _batch(mesh: Mesh, task: Task, parts: int = 1) -> Batch:
    """Return the shapes, dtypes and shardings of a batch, or of one of its parts."""

    def of_array(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((x.shape[0] // parts, *x.shape[1:]), x.dtype, sharding=batch_sharding(mesh))

    return jax.tree.map(of_array, task.batch)


def pretraining(model: ModelFlags, data: DataFlags, mesh: Mesh) -> LanguageModel:
    """Return the task of `pretrain`; of the flags of the text only the shape of a batch matters."""
    network = with_attention(model.build(), model.attention, mesh.devices.flat[0], data.seq_len)
    rows = rows_of_a_device(mesh, data.batch_size, data.accumulate)
    return LanguageModel(
        network=network,
        batch_size=data.batch_size,
        seq_len=data.seq_len,
        chunk=chunk_of(model.logits, network.vocab_size, rows, data.seq_len),
    )


def refuse_untraceable(program: Program, optimizer: str, mesh: str) -> None:
    """Refuse a step that cannot be traced: an exact SVD on a mesh of CPU devices."""
    try:
        jax.eval_shape(program.train_step, program.state, program.batch)
    except NotImplementedError as error:
        raise UserError(f"--optimizer {optimizer} does not work on --mesh {mesh}: {error}") from error
