"""What a run computes with: its programs, and where each of their arrays lies, from the
configuration alone.

Nothing here holds a number: whoever wants to know what a run takes can compile its programs without
weights.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from models import Llama
from train.config.run import Pretrain, UserError
from train.program.optimizer import make_optimizer, make_schedule
from train.program.sharding import batch_sharding, maps_stacks, placed, placement, replicated
from train.program.step import Params, TrainState, make_initial_state, make_train_step, structure, token_losses


class Program(NamedTuple):
    """The programs of a run on a mesh."""

    mesh: Mesh
    graphdef: nnx.GraphDef[Llama]
    tx: optax.GradientTransformation
    state: TrainState  # shapes, dtypes and shardings
    windows: jax.ShapeDtypeStruct  # of a batch
    draw_state: Callable[[], TrainState]
    train_step: jax.stages.Wrapped
    token_losses: Callable[[Params, Array], Array]  # of a batch (B, T), whole on each device


def make_program(config: Pretrain, mesh: Mesh, planned: bool = False) -> Program:
    """Return the programs of a run, not yet compiled; `planned` are those of other devices if these
    are of a CPU.
    """
    model, seed = config.model.build(), config.data.seed
    tx = make_optimizer(config.optimizer, config.schedule, seed, map_stacks=maps_stacks(mesh, planned))
    initial_state = make_initial_state(model, tx, seed)
    state = placed(mesh, tx, jax.eval_shape(initial_state))
    shardings = jax.tree.map(lambda x: x.sharding, state)
    graphdef = structure(model)
    schedule = make_schedule(config.optimizer.learning_rate, config.schedule)
    place = placement(mesh)
    train_step = make_train_step(graphdef, tx, schedule, place)
    return Program(
        mesh=mesh,
        graphdef=graphdef,
        tx=tx,
        state=state,
        windows=jax.ShapeDtypeStruct(
            (config.data.batch_size, config.data.seq_len + 1), np.int32, sharding=batch_sharding(mesh)
        ),
        # Drawn under jit, where each device makes its own part: none ever holds the whole.
        draw_state=jax.jit(initial_state, out_shardings=shardings),
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))),
        token_losses=jax.jit(functools.partial(token_losses, graphdef, place=place), out_shardings=replicated(mesh)),
    )


def refuse_untraceable(config: Pretrain, mesh: Mesh) -> None:
    """Refuse what no program can be made of: an exact SVD on a mesh of CPU devices."""
    program = make_program(config, mesh)
    try:
        jax.eval_shape(program.train_step, program.state, program.windows)
    except NotImplementedError as error:
        raise UserError(
            f"--optimizer {config.optimizer.optimizer} does not work on --mesh {config.devices.mesh}: {error}"
        ) from error
