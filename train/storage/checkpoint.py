"""Checkpoints of a run, written with Orbax while the training continues.

A checkpoint appears in one rename, with its checksums (`train.storage.checksums`), so a kill leaves
the ones before it. A damaged one is skipped at a restart, and the one before it is used.
"""

import contextlib
import functools
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import jax
import orbax.checkpoint as ocp

from train.config.run import UserError
from train.storage.checksums import UNFINISHED, SealedPath, damage, size_of
from train.system.files import disk_error
from train.system.processes import everywhere, is_first, on_first

State = TypeVar("State")
ITEM = "default"  # the folder in a checkpoint in which Orbax keeps the arrays
DAMAGED = ".damaged"


class Checkpoints:
    """The last `keep` states of a run, and the one after `best_step` updates, if that is set.

    All methods are to be called in every process.

    Attributes:
      latest: Step of the newest checkpoint, which may still be being written, or None.
      best_step: Step of a checkpoint that stays.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Find the newest intact checkpoint, and put aside the damaged ones that are newer.

        Raises:
          UserError: If there are checkpoints, but all are damaged.
        """
        self.folder, self.keep = folder.absolute(), keep
        self.best_step: int | None = None
        self._writing: int | None = None
        self._quiet = _Quiet()
        _drop_echoes()
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), temporary_path_class=SealedPath)
        # Process 0 decides, as a network file system may show other processes an older listing.
        self.latest: int | None = on_first(self._recover)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, UserError) and jax.process_count() > 1:
            return  # the others may not come here, and would be waited for
        try:
            self.finish()
        except UserError:
            if kind is None:  # or the first error is the one to report
                raise
        with self._quiet:
            self._checkpointer.close()

    def save(self, step: int, state: Any) -> None:
        """Start to write the state after `step` updates. It is copied first, so it may be donated.

        Raises:
          UserError: If this state, or the one before it, cannot be written.
        """
        self.finish()
        on_first(lambda: self._make_room(step, bytes_of(state)))
        everywhere(lambda: self._begin(step, state))
        self._writing = self.latest = step

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, then remove those that are too many."""
        if self._writing is None:
            return
        step, self._writing = self._writing, None
        everywhere(lambda: self._wait(step))
        on_first(self._rotate)

    def restore(self, step: int, abstract: State) -> State:
        """Return the state after `step` updates, with the structure, shapes and shardings of
        `abstract`, which may differ from the shardings of the run that saved it.
        """
        item = ocp.args.Composite(**{ITEM: ocp.args.StandardRestore(abstract)})
        return cast(State, self._checkpointer.restore(self.folder / str(step), args=item)[ITEM])

    def refuse_full_disk(self, size: int) -> None:
        """Refuse a disk without room for a checkpoint of `size` bytes, before any training."""
        if (room := self._room()) < size:
            raise UserError(
                f"{self.folder} has room for {room / 1e6:,.0f} MB, but a checkpoint needs up to {size / 1e6:,.0f} MB: "
                "free space there, or choose another --run-dir."
            )

    def _recover(self) -> int | None:
        """Remove what kills have left, and return the step of the newest intact checkpoint."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            return None
        for path in self.folder.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(path)
        steps = steps_in(self.folder)
        step, damaged = newest_intact(self.folder)
        if steps and step is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
            raise UserError(
                f"all checkpoints in {self.folder} are damaged ({reasons}): restore one from a backup, or start a new "
                "run in another --run-dir."
            )
        for name, reason in damaged.items():
            print(
                f"note: {self.folder / str(name)} is damaged ({reason}), so the run resumes from step {step}; it is "
                f"kept as {name}{DAMAGED}"
            )
            aside = self.folder / f"{name}{DAMAGED}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(name)).rename(aside)
        return step

    def _begin(self, step: int, state: Any) -> None:
        with self._reported(step):
            self._checkpointer.save(
                self.folder / str(step), args=ocp.args.Composite(**{ITEM: ocp.args.StandardSave(state)})
            )

    def _wait(self, step: int) -> None:
        with self._reported(step):
            self._checkpointer.wait_until_finished()

    def _rotate(self) -> None:
        steps = steps_in(self.folder)
        for step in steps[: -self.keep]:
            if step != self.best_step:
                self._remove(step)

    def _make_room(self, step: int, size: int) -> None:
        """Remove the oldest checkpoints if the disk is too full for another of up to `size` bytes.

        Raises:
          UserError: If that does not help; then none is removed.
        """
        if steps := steps_in(self.folder):  # what is written is smaller, and similar each time
            size = min(size, round(1.1 * size_of(self.folder / str(steps[-1]))))
        if (room := self._room()) < size:
            raise self._unwritten(step, f"it may take {size / 1e6:,.1f} MB, but there is room for {room / 1e6:,.1f} MB")
        for old in self._removable():
            if shutil.disk_usage(self.folder).free >= size:
                return
            self._remove(old)

    def _room(self) -> int:
        """Return the bytes that are free, or can be."""
        return shutil.disk_usage(self.folder).free + sum(size_of(self.folder / str(old)) for old in self._removable())

    def _removable(self) -> list[int]:
        """Return the steps of the checkpoints that may go: neither the newest nor the best."""
        return [step for step in steps_in(self.folder)[:-1] if step != self.best_step]

    def _remove(self, step: int) -> None:
        leaving = self.folder / f"{step}{UNFINISHED}.removed"  # so that a kill leaves no half of it
        (self.folder / str(step)).rename(leaving)
        shutil.rmtree(leaving)

    @contextlib.contextmanager
    def _reported(self, step: int) -> Iterator[None]:
        """Turn an error of the disk into one that says what is saved."""
        try:
            with self._quiet:
                yield
        except Exception as error:
            if (reason := disk_error(error)) is None:
                raise
            if is_first():
                for path in self.folder.glob(f"*{UNFINISHED}*"):
                    shutil.rmtree(path, ignore_errors=True)
            raise self._unwritten(step, reason) from error

    def _unwritten(self, step: int, reason: str) -> UserError:
        saved = steps_in(self.folder)
        kept = f"the newest is that of step {saved[-1]}" if saved else "there is none before it"
        return UserError(
            f"the checkpoint of step {step} cannot be written to {self.folder} ({reason}); {kept}: free space there, "
            "then run the same command again with --resume."
        )


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, in order."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal())


def newest_intact(folder: Path) -> tuple[int | None, dict[int, str]]:
    """Return the step of the newest intact checkpoint, and what is wrong with those after it."""
    damaged: dict[int, str] = {}
    for step in reversed(steps_in(folder)):
        reason = damage(folder / str(step))
        if reason is None:
            return step, damaged
        damaged[step] = reason
    return None, damaged


def bytes_of(state: Any) -> int:
    """Return the bytes of all arrays of a state, which a checkpoint is not larger than by much."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


class _Quiet(logging.Filter):
    """While entered, drops Orbax's log lines about errors, which are raised to us as well."""

    def __enter__(self) -> None:
        logging.getLogger("absl").addFilter(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("absl").removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep other lines."""
        return "orbax" not in record.pathname


@functools.cache
def _drop_echoes() -> None:
    """Drop what Orbax's storage prints of every write that ends after the first has failed: nobody
    waits for it any more. It may come at any time after the error.
    """
    usual = sys.unraisablehook

    def hook(found: "sys.UnraisableHookArgs") -> None:
        is_echo = found.object is None and isinstance(found.exc_value, RuntimeError)
        if not (is_echo and str(found.exc_value) == "Event loop is closed"):
            usual(found)

    sys.unraisablehook = hook
