"""How far a long work on text is."""

import time
from collections.abc import Callable
from typing import Self

from rich import progress
from rich.console import Console

SPEAK_EVERY = 5.0  # seconds


class Progress:
    """A bar on a terminal, which goes away at the end; elsewhere a line every few seconds."""

    def __init__(self, say: Callable[[str], None], verb: str, total: int = 0) -> None:
        """`verb` says what is done to `total` bytes of text; 0 if nobody knows how many."""
        self.done, self._say, self._verb, self._total = 0, say, verb, total
        self._began = self._spoken = time.monotonic()
        console = Console()
        self._bar: progress.Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            columns = progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn()
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                *columns,
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(verb, total=total or None)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def add(self, size: int) -> None:
        """Count bytes of text."""
        self.done += size
        if self._bar:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if now - self._spoken >= SPEAK_EVERY:
            self._spoken, rate = now, self.done / 1e6 / (now - self._began)
            of = f" of {self._total / 1e6:,.0f} MB, {self.done / self._total:.0%}" if self._total else " MB"
            self._say(f"{self._verb} {self.done / 1e6:,.0f}{of}, {rate:,.1f} MB/s")
