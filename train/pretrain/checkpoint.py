"""The states that a run can go back to, kept by Orbax.

A checkpoint is written under another name and appears in one rename: one that is listed is whole.
Saving waits for the disk: when `save` returns, the state is safe.
"""

from pathlib import Path
from typing import Any, Self, TypeVar, cast

import orbax.checkpoint as ocp

from train.system.processes import on_first

State = TypeVar("State")


class Checkpoints:
    """The last two states of a run."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        # The step of the newest checkpoint, if there is one: the same for all processes, whatever
        # each sees already.
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
        """Return the state after `step` updates; `abstract` has its structure, shapes and
        shardings, whatever those of the run that saved it were.
        """
        state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return cast(State, state)
