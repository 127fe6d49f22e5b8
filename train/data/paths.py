"""The files that a --data names, and what identifies them without reading them."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from train.config.run import FILES, HUB, UserError

State = dict[str, list[int]]  # of each file: its size, and when it was last changed, in ns


def paths_of(source: str) -> list[Path]:
    """Return the files that `files:GLOB` matches, in order.

    Raises:
      UserError: If there is none.
    """
    pattern = source.removeprefix(FILES)
    paths = [Path(name) for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise UserError(
            f"{FILES}{pattern} matches no file (relative to {Path.cwd()}): quote the pattern, so that the shell does "
            "not expand it, and use ** to search subfolders."
        )
    return paths


def from_anywhere(data: str) -> str:
    """Return a --data that names the same files, whatever the folder that the command is run in."""
    if data.startswith(FILES):
        return FILES + os.path.abspath(os.path.expanduser(data.removeprefix(FILES)))
    name, comma, rest = data.removeprefix(HUB).partition(",")
    folder = os.path.abspath(os.path.expanduser(name))
    return f"{HUB}{folder}{comma}{rest}" if data.startswith(HUB) and os.path.isdir(folder) else data


def state_of(paths: Iterable[Path]) -> State:
    """Return size and time of change of those that are files."""
    state = {}
    for path in paths:
        if path.is_file():
            stat = path.stat()
            state[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns]
    return state
