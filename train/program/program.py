"""The compiled programs of a run and the sharding of their arrays, built from the flags alone.

Nothing here holds a number, so the memory and the traffic of a run can be found by compiling its
programs without weights.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from models import Llama
from train.config.run import DataFlags, ModelFlags, OptimizerFlags, ScheduleFlags, UserError
from train.program.optimizer import make_optimizer, make_schedule, state_bytes
from train.program.sharding import batch_sharding, maps_stacks, placed, placement, replicated
from train.program.step import Params, TrainState, make_initial_state, make_train_step, structure, token_losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The programs of a run on a mesh."""

    mesh: Mesh
    graphdef: nnx.GraphDef[Llama]
    tx: optax.GradientTransformation
    state: TrainState  # shapes, dtypes and shardings
    windows: jax.ShapeDtypeStruct  # of a batch
    draw_state: Callable[[], TrainState]
    train_step: jax.stages.Wrapped
    token_losses: Callable[[Params, Array], Array]  # of a batch (B, T), replicated

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the whole optimizer state."""
        return state_bytes(self.tx, self.state.params)


def make_program(
    mesh: Mesh,
    model: ModelFlags,
    data: DataFlags,
    optimizer: OptimizerFlags,
    schedule: ScheduleFlags,
    *,
    planned: bool = False,
) -> Program:
    """Return the programs of a run, not yet compiled.

    Args:
      mesh: The mesh to run on.
      model: Flags of the model.
      data: Flags of the text; only the shape of a batch and the seed matter.
      optimizer: Flags of the optimizer.
      schedule: Flags of the schedule.
      planned: The CPU devices of `mesh` represent accelerators, and the programs will not run.

    Raises:
      UserError: If a parameter cannot be sharded over the mesh.
    """
    config = model.build()
    tx = make_optimizer(optimizer, schedule, data.seed, map_stacks=maps_stacks(mesh, planned))
    initial_state = make_initial_state(config, tx, data.seed)
    state = placed(mesh, tx, jax.eval_shape(initial_state))
    shardings = jax.tree.map(lambda x: x.sharding, state)
    graphdef = structure(config)
    place = placement(mesh)
    train_step = make_train_step(graphdef, tx, make_schedule(optimizer.learning_rate, schedule), place)
    batch = (data.batch_size, data.seq_len + 1)
    return Program(
        mesh=mesh,
        graphdef=graphdef,
        tx=tx,
        state=state,
        windows=jax.ShapeDtypeStruct(batch, np.int32, sharding=batch_sharding(mesh)),
        # Under jit each device draws only its own shard of the state.
        draw_state=jax.jit(initial_state, out_shardings=shardings),
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))),
        token_losses=jax.jit(functools.partial(token_losses, graphdef, place=place), out_shardings=replicated(mesh)),
    )


def refuse_untraceable(program: Program, optimizer: str, mesh: str) -> None:
    """Refuse a step that cannot be traced: an exact SVD on a mesh of CPU devices."""
    try:
        jax.eval_shape(program.train_step, program.state, program.windows)
    except NotImplementedError as error:
        raise UserError(f"--optimizer {optimizer} does not work on --mesh {mesh}: {error}") from error
