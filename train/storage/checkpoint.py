"""Checkpoints of a run, written with Orbax.

A checkpoint is written under a temporary name and appears in one rename, so a listed checkpoint is
complete. Saving is synchronous: when `save` returns, the state is on disk.
"""

from pathlib import Path
from typing import Any, Self, TypeVar, cast

import orbax.checkpoint as ocp

from train.config.run import UserError
from train.system.processes import on_first

State = TypeVar("State")
Params = Any


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


def restore_params(folder: Path, step: int | None, abstract: Params) -> Params:
    """Return the weights after `step` updates, or those of the newest checkpoint; nothing else of
    the state is read.

    Args:
      folder: Of the checkpoints.
      step: The number of updates.
      abstract: Shapes, dtypes and shardings.

    Raises:
      UserError: If there is no such checkpoint.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} has no checkpoint: train or import a model first.")
    options = ocp.CheckpointManagerOptions(create=False)
    handler = ocp.PyTreeCheckpointHandler()  # the other one reads whole states only
    with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler) as manager:
        steps = sorted(manager.all_steps())
        if not steps:
            raise UserError(f"{folder} has no checkpoint: train or import a model first.")
        if step not in (None, *steps):
            raise UserError(f"{folder} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}.")
        item = {"params": abstract}
        arguments = ocp.args.PyTreeRestore(
            item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
        )
        return manager.restore(steps[-1] if step is None else step, args=arguments)["params"]
