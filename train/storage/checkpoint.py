"""Checkpoints of a run, written with Orbax.

A checkpoint is written under a temporary name and appears in one rename, so a listed checkpoint is
complete. Saving is synchronous: when `save` returns, the state is on disk.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from train.config.run import UserError
from train.system.processes import on_first

State = TypeVar("State")
Params = Any
# Of imported weights: the bytes that are encoded at once, and those of a file, which is in memory
# until it is written. `python -m benchmarks.weights` measures what they take.
CHUNK_BYTES, FILE_BYTES, MOST_FILES = 4 * 10**6, 16 * 10**6, 256


class Checkpoints:
    """The last two states of a run, and the one after `best_step` updates, if that is set.

    Attributes:
      latest: Step of the newest checkpoint, or None.
      best_step: Step of a checkpoint that stays.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.best_step: int | None = None
        policies = [checkpoint_managers.LatestN(keep), _Best(self)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
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


@dataclasses.dataclass(frozen=True)
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the best checkpoint, as the run knows it: Orbax forgets scores when it is reopened."""

    checkpoints: Checkpoints

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        del context
        return [checkpoint.step == self.checkpoints.best_step for checkpoint in checkpoints]


def save_params(folder: Path, params: Params) -> None:
    """Write weights, arrays of NumPy, as a first checkpoint that has nothing else.

    Beside the weights this takes some 0.1 GB. By default Orbax would copy all arrays of NumPy, as
    they might change while they are written, encode each as a whole, and write it as one file.
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
        ocdbt_target_data_file_size=max(FILE_BYTES, sum(x.nbytes for x in jax.tree.leaves(params)) // MOST_FILES),
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
    # Unlike a manager, this starts no backend of JAX.
    steps = sorted(found.step for found in ocp.path.step.standard_name_format().find_all(folder))
    if not steps:
        raise UserError(f"{folder} has no checkpoint: train or import a model first.")
    if step not in (None, *steps):
        raise UserError(f"{folder} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}.")
    return steps[-1] if step is None else step


def restore_params(folder: Path, step: int | None, abstract: Params) -> Params:
    """Return the weights after `step` updates, or those of the newest checkpoint; nothing else of
    the state is read.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.
      abstract: Shapes, dtypes and shardings.

    Raises:
      UserError: If there is no such checkpoint.
    """
    step = kept_step(folder, step)
    with _reader(folder) as manager:
        return _restored(manager, step, abstract, ocp.checkpoint_utils.construct_restore_args(abstract))


def restore_params_on_host(folder: Path, step: int | None, abstract: Params) -> Params:
    """Return the weights as arrays of NumPy, which no device holds.

    They are read one after the other, as each is in memory encoded, too, while it is decoded: Orbax
    would read all at once. The largest come first, when there is most room.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.
      abstract: Shapes and dtypes.

    Raises:
      UserError: If there is no such checkpoint.
    """
    step = kept_step(folder, step)

    leaves, structure = jax.tree.flatten_with_path(abstract)
    arrays: dict[int, np.ndarray] = {}
    with _reader(folder) as manager:
        for i in sorted(range(len(leaves)), key=lambda i: -leaves[i][1].size):
            path, leaf = leaves[i]
            arguments = ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
            part = _restored(manager, step, _nested(path, leaf), _nested(path, arguments))
            (arrays[i],) = jax.tree.leaves(part)
    return jax.tree.unflatten(structure, [arrays[i] for i in range(len(leaves))])


def _nested(path: tuple[Any, ...], value: Any) -> Params:
    """Return the dicts in which `value` has this path."""
    return functools.reduce(lambda inner, key: {key.key: inner}, reversed(path), value)


def _restored(manager: ocp.CheckpointManager, step: int, params: Params, restore_args: Params) -> Params:
    """Return those parameters that `params` names."""
    arguments = ocp.args.PyTreeRestore(
        item={"params": params}, restore_args={"params": restore_args}, partial_restore=True
    )
    return manager.restore(step, args=arguments)["params"]


def _reader(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(create=False)
    # The other handler reads whole states only.
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=ocp.PyTreeCheckpointHandler())
