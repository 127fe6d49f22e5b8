"""A trace of a few updates, by JAX's profiler."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import jax


class Profile:
    """Traces updates `first` to `last`, or those of them that are made."""

    def __init__(self, span: str, made: int, folder: Path, say: Callable[[str], None]) -> None:
        """`span` is "FIRST:LAST", or empty for no trace; the run has made `made` updates."""
        first, _, last = span.partition(":")
        self.updates = range(int(first), int(last) + 1) if span else range(0)
        self.folder, self.say = folder, say
        self.is_running = False
        if span and self.updates[-1] <= made:
            say(f"--profile {span} traces nothing: the run has made {made} updates")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def is_due(self, update: int) -> bool:
        """Whether the trace begins with this update."""
        return update in self.updates and not self.is_running

    def is_over(self, update: int) -> bool:
        """Whether this update is the last one that is traced."""
        return self.is_running and update + 1 not in self.updates

    def start(self) -> None:
        """Begin the trace."""
        jax.profiler.start_trace(self.folder)
        self.is_running = True

    def stop(self) -> None:
        """Write the trace if there is one."""
        if self.is_running:
            self.is_running = False
            jax.profiler.stop_trace()
            self.say(f"profile in {self.folder}; to view it: pip install xprof, then xprof --logdir {self.folder}")
