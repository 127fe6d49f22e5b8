"""Checkpoints of a run, written with Orbax.

A checkpoint is written under a temporary name and appears in one rename, so a listed checkpoint is
complete. Saving is synchronous: when `save` returns, the state is on disk.
"""

from pathlib import Path
from typing import Any, Self, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.config.run import UserError
from train.system.processes import on_first

State = TypeVar("State")
Params = Any
# Of imported weights: what is encoded at once, and what is in memory until it is a file.
CHUNK_BYTES, FILE_BYTES = 4 * 10**6, 32 * 10**6


class Checkpoints:
    """The last two states of a run."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        # Step of the newest checkpoint, or None. Process 0 decides, as a network file system may
        # show other processes an older listing.
        self.latest: int | None = on_first(self._manager.latest_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Write the state after `step` updates."""
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self.latest = step

    def restore(self, step: int, abstract: State) -> State:
        """Return the state after `step` updates, with the structure, shapes and shardings of
        `abstract`, which may differ from the shardings of the run that saved it.
        """
        state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return cast(State, state)


def save_params(folder: Path, params: Params) -> None:
    """Write weights, arrays of NumPy, as a first checkpoint that has nothing else.

    Beside the weights this takes some 0.1 GB. Orbax copies arrays of NumPy, as they might change
    while they are written, and encodes each as a whole; and a file is in memory until it is full.
    """
    arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    of_jax = ocp.type_handlers.get_type_handler(jax.Array)  # without it Orbax warns
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays), (jax.Array, of_jax))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    item = {"params": params}
    arguments = ocp.args.PyTreeSave(
        item,
        save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), item),
        ocdbt_target_data_file_size=FILE_BYTES,
    )
    with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler) as manager:
        manager.save(0, args=arguments)


def kept_step(folder: Path, step: int | None) -> int:
    """Return `step`, or the step of the newest checkpoint.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.

    Raises:
      UserError: If there is no such checkpoint.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} has no checkpoint: train or import a model first.")
    with _reader(folder) as manager:
        steps = sorted(manager.all_steps())
    if not steps:
        raise UserError(f"{folder} has no checkpoint: train or import a model first.")
    if step not in (None, *steps):
        raise UserError(f"{folder} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}.")
    return steps[-1] if step is None else step


def restore_params(folder: Path, step: int | None, abstract: Params, *, on_host: bool = False) -> Params:
    """Return the weights after `step` updates, or those of the newest checkpoint; nothing else of
    the state is read.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.
      abstract: Shapes, dtypes and shardings.
      on_host: Return arrays of NumPy, which no device holds.

    Raises:
      UserError: If there is no such checkpoint.
    """
    step = kept_step(folder, step)
    item = {"params": abstract}
    restore_args = (
        jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), item)
        if on_host
        else ocp.checkpoint_utils.construct_restore_args(item)
    )
    arguments = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    with _reader(folder) as manager:
        return manager.restore(step, args=arguments)["params"]


def _reader(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(create=False)
    # The other handler reads whole states only.
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=ocp.PyTreeCheckpointHandler())
