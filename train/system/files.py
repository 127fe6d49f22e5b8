"""Atomic file writes, and folder locks that the death of a process releases. Unix only."""

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.config.run import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
TENSORSTORE = re.compile(r"\[(?:os_error_code='|OS error )(\d+)")  # how Orbax's storage, and an older one, says errno


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it.

    A text may have names of files, which need not be UTF-8.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with open(unfinished, "wb") as file:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        make_durable(file.fileno())
    unfinished.rename(path)


def as_json(value: Any, indent: int | None = 1) -> str:
    """Return a value as JSON, which has no nan and no infinity: they become null."""
    return json.dumps(_representable(value), indent=indent, allow_nan=False) + "\n"


def _representable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _representable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_representable, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def appearing(folder: Path, flag: str, size: int) -> Iterator[Path]:
    """Yield an empty folder that takes the name `folder` at the end, or is removed after an error.

    Args:
      folder: A new or empty folder.
      flag: The flag that names it, for messages.
      size: The bytes that will be written.

    Raises:
      UserError: If the folder is not empty or cannot be written, as when the disk is full.
    """
    refuse_nonempty(folder, flag)
    final = folder.absolute()
    unfinished = final.with_name(f".{final.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a kill
        unfinished.mkdir(parents=True)
        try:
            if (free := shutil.disk_usage(unfinished).free) < size:
                raise UserError(
                    f"{flag} {folder} needs {size / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB left: "
                    "choose another folder."
                )
            yield unfinished
            if final.exists():
                final.rmdir()
            unfinished.rename(final)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{flag} {folder} cannot be written ({reason}): choose another folder.") from error


def refuse_nonempty(folder: Path, flag: str) -> None:
    """Refuse a folder that has files, or is one."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{flag} {folder} is not empty: give the name of a new folder.")


def make_durable(descriptor: int) -> None:
    """Flush a file to disk: a rename must not become durable before the contents."""
    os.fsync(descriptor)


@contextlib.contextmanager
def locked(folder: Path, refusal: str | None = None, waiting: Callable[[], object] = tuple) -> Iterator[None]:
    """Lock `folder`; if it is locked already, raise `UserError(refusal)` if given, or wait.

    Unix only: the lock is an `flock`, which the system releases when the process dies. `waiting` is
    called before a wait.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if refusal:
                raise UserError(refusal) from None
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"the file system of {folder} has no locks ({error.strerror}): choose a folder on another, or have it "
                "mounted with them."
            ) from None
        yield


def full_disk(error: OSError) -> str | None:
    """Return what to do about an error of writing if the disk, or the user's quota, is full."""
    if error.errno not in FULL:
        return None
    reason = ": ".join(filter(None, (os.strerror(error.errno), error.filename and str(error.filename))))
    return f"there is no room to write ({reason}): free some, then run the command again."


def disk_error(error: BaseException | None) -> str | None:
    """Return what the system said if an error, or one that it followed from, is one of files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return os.strerror(error.errno)
        if found := TENSORSTORE.search(str(error)):
            return os.strerror(int(found[1]))
        error = error.__cause__ or error.__context__
    return None
