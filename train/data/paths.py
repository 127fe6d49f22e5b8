"""The files that a --data names, and what identifies them without reading them."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from train.config.run import FILES, UserError

State = dict[str, list[int]]  # of each file: its size, and when it was last changed, in ns


def paths_of(source: str) -> list[Path]:
    """Return the files that `files:GLOB` matches, in order.

    Raises:
      UserError: If there is none.
    """
    pattern = source.removeprefix(FILES)
    given = os.path.expanduser(pattern)
    paths = [Path(name) for name in sorted(glob.glob(given, recursive=True))]
    paths = [path for path in paths if path.is_file()]
    if os.path.isdir(given):
        raise UserError(
            f"{FILES}{pattern} is a folder: give {FILES}'{glob.escape(pattern.rstrip('/'))}/**/*' for all in it."
        )
    if not paths and os.path.isfile(given):
        raise UserError(
            f"{FILES}{pattern} is a file, but its name is also a pattern: give {FILES}'{glob.escape(pattern)}'."
        )
    if not paths:
        raise UserError(
            f"{FILES}{pattern} matches no file (relative to {Path.cwd()}): quote the pattern, so that the shell does "
            "not expand it, and use ** to search subfolders."
        )
    return paths


def state_of(paths: Iterable[Path]) -> State:
    """Return size and time of change of those that are files."""
    state = {}
    for path in paths:
        if path.is_file():
            stat = path.stat()
            state[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns]
    return state
