"""Files that appear whole or not at all, and locks that a killed process cannot leave behind."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from train.config.run import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name, make it durable, and give it its own name."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with open(unfinished, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        make_durable(file.fileno())
    unfinished.rename(path)


def make_durable(descriptor: int) -> None:
    """Wait for the disk: a rename must not get there before the contents."""
    os.fsync(descriptor)


@contextlib.contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold `folder` for this process: wait for another one, or refuse with a `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another.") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise UserError(str(refusal)) from None
        yield
