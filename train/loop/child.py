"""A run in a process of its own: memory is measured per process, and no run slows down the next."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from train.config.stored import COMMANDS, Run, content_of
from train.storage.folder import RunFolder
from train.system.files import write_whole

SETTINGS, LOG = "settings.json", "log.txt"  # what a child is given, and what it prints
PAUSE = 0.05  # seconds between two polls of a run


def run_child(run: Run, folder: RunFolder, poll: Callable[[], None]) -> int:
    """Start a run, or resume it if it has begun, and return its exit status; its output is added to
    its log.

    If `poll` raises, the run saves and stops first.
    """
    is_begun = folder.config.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    with open(folder.path / LOG, "ab") as output:
        # In its own process group: Ctrl-C on a terminal then reaches it only through this process.
        process = subprocess.Popen(
            [sys.executable, "-m", "train", *child_arguments(run, folder.path, is_begun)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            while process.poll() is None:
                poll()
                time.sleep(PAUSE)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.returncode


def child_arguments(run: Run, path: Path, is_begun: bool) -> list[str]:
    """Write the settings of a run into its folder, and return the command line that reads them."""
    settings = path / SETTINGS
    write_whole(settings, json.dumps(content_of(run), indent=1) + "\n")
    command = next(name for name, kind in COMMANDS.items() if isinstance(run, kind))
    return [command, "--config", str(settings), "--run-dir", str(path), *(["--resume"] if is_begun else [])]


def last_line(log: Path) -> str:
    """Return the last line that is not empty."""
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
