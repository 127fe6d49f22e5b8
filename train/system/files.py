"""Atomic file writes, and folder locks that the death of a process releases. Unix only."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from train.config.run import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with open(unfinished, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        make_durable(file.fileno())
    unfinished.rename(path)


def make_durable(descriptor: int) -> None:
    """Flush a file to disk: a rename must not become durable before the contents."""
    os.fsync(descriptor)


@contextlib.contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Lock `folder`; if it is locked already, wait, or raise `UserError(refusal)` if given.

    Unix only: the lock is an `flock`, which the system releases when the process dies.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise UserError(str(refusal)) from None
        yield
