"""Checksums of a checkpoint, by which damage is noticed before anything is read.

`SealedPath` is the path under which Orbax writes: when all files are there, it writes their sizes
and SHA-256 into checksums.json, makes everything durable, and only then gives the folder its name.
So a folder of that name is complete, and any change of it shows.
"""

import asyncio
import concurrent.futures
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from orbax.checkpoint.path import atomicity

from train.system.files import make_durable, write_whole

CHECKSUMS = "checksums.json"
UNFINISHED: str = atomicity.TMP_DIR_SUFFIX  # in the name of whatever is not yet, or no longer, a checkpoint
THREADS = 4  # hashing releases the interpreter; more did not help on a disk


class SealedPath(atomicity.AtomicRenameTemporaryPath):
    """A temporary folder that is sealed before it gets its name."""

    async def finalize(self) -> None:
        """Let Orbax finish the folder under another temporary name, seal it, and rename it."""
        final = self._final_path
        self._final_path = final.with_name(f"{final.name}{UNFINISHED}.unsealed")
        await super().finalize()
        unsealed, self._final_path = Path(self._final_path), final
        await asyncio.to_thread(seal, unsealed)
        unsealed.rename(Path(final))
        durable_folder(Path(final).parent)


def seal(folder: Path) -> None:
    """Write the checksums of a folder, and make all of it durable."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        entries = dict(
            zip((str(path.relative_to(folder)) for path in files), threads.map(_flushed, files), strict=True)
        )
    write_whole(folder / CHECKSUMS, json.dumps({"files": entries}, indent=1) + "\n")
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            durable_folder(path)


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if it is intact.

    Every checkpoint has checksums before it has a name, so one without them is damaged. Names in
    the file of checksums are only compared, never opened, and links are not followed.
    """
    expected = _checksums(folder)
    if expected is None:
        return f"it has no readable {CHECKSUMS}"
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    files = {str(path.relative_to(folder)): path for path in paths if path != folder / CHECKSUMS}
    if missing := sorted(expected.keys() - files.keys()):
        return f"{missing[0]} is missing"
    if more := sorted(files.keys() - expected.keys()):
        return f"{more[0]} is not one of its files"
    if links := [name for name, path in files.items() if path.is_symlink() or not path.is_file()]:
        return f"{links[0]} is no ordinary file"
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        for name, entry in zip(files, threads.map(_entry_or_reason, files.values()), strict=True):
            if isinstance(entry, str):
                return f"{name} {entry}"
            if entry != expected[name]:
                return f"{name} has changed since it was written"
    return None


def size_of(folder: Path) -> int:
    """Return the bytes of the files of a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def durable_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        make_durable(descriptor)
    finally:
        os.close(descriptor)


def _checksums(folder: Path) -> dict[str, Any] | None:
    path = folder / CHECKSUMS
    try:
        content = None if path.is_symlink() else json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    files = content.get("files") if isinstance(content, dict) else None
    return files if isinstance(files, dict) else None


def _entry(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _entry_or_reason(path: Path) -> dict[str, Any] | str:
    """Return what a file is, or why it cannot be read, as on a disk that fails."""
    try:
        return _entry(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _flushed(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        make_durable(file.fileno())
    return _entry(path)
