"""Progress output: a live line on a terminal, plain lines elsewhere."""

import datetime
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Display:
    """Shows updates, and messages between them."""

    def __init__(self, steps: int, every: int, quiet: bool = False) -> None:
        """Without a terminal, show each `every`-th of `steps` updates; if `quiet`, show none."""
        self.steps, self.every = steps, every
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet)
        self.live: Progress | None = None
        if not quiet and self.console.is_terminal and not self.console.is_dumb_terminal:
            line = TextColumn("{task.description}", markup=False)
            self.live = Progress(BarColumn(bar_width=20), line, console=self.console)
            self.task = self.live.add_task("compiling", total=steps)
        self.first: tuple[int, float] | None = None  # the first update shown, and its time

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, message: str) -> None:
        """Print a message, above the live line if there is one."""
        self.console.print(message)

    def update(self, step: int, loss: float, lr: float, tokens_per_second: float) -> None:
        """Show the update that led to `step`."""
        line = (
            f"step {step}/{self.steps}  loss {loss:.4f}  lr {lr:.2e}  "
            f"{tokens_per_second:,.0f} tokens/s  ETA {self._remaining(step)}"
        )
        if self.live:
            self.live.update(self.task, completed=step, description=line)
        elif step % self.every == 0 or step == self.steps:
            self.say(line)

    def _remaining(self, step: int) -> str:
        """Return the remaining time at the average pace, evaluations and checkpoints included."""
        now = time.monotonic()
        if self.first is None:
            self.first = step, now
            return "-"
        first, then = self.first
        return str(datetime.timedelta(seconds=round((now - then) / (step - first) * (self.steps - step))))
