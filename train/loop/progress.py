"""Progress output: a live line on a terminal, plain lines elsewhere."""

import datetime
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from train.storage.metrics import Row


class Display:
    """Shows updates, and messages between them."""

    def __init__(self, steps: int, every: int, quiet: bool = False) -> None:
        """Without a terminal, show each `every`-th of `steps` updates; if `quiet`, show none."""
        self.steps, self.every = steps, every
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet)
        self.live: Progress | None = None
        if not quiet and self.console.is_terminal and not self.console.is_dumb_terminal:
            # The bar has what the numbers leave of the line; a narrow terminal wraps them.
            bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
            line = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False))
            self.live = Progress(bar, line, console=self.console, expand=True)
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

    def update(self, row: Row) -> None:
        """Show the row of an update: MFU and memory too, if it has them."""
        step = row["step"]
        more = [f"MFU {row['mfu']:.1%}"] if "mfu" in row else []
        more += [f"memory {row['peak_memory_bytes'] / 1e9:.1f} GB"] if "peak_memory_bytes" in row else []
        line = "  ".join(
            (
                f"step {step}/{self.steps} ({100 * step // self.steps}%)",
                f"loss {row['loss']:.4f}",
                f"lr {row['lr']:.2e}",
                f"{row['tokens_per_second']:,.0f} tokens/s",
                *more,
                f"ETA {self._remaining(step)}",
            )
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


def described(evaluation: Mapping[str, float]) -> str:
    """Return an evaluation as one line."""
    words = {"eval_loss": "held-out loss {:.4f}", "bits_per_byte": "{:.4f} bits per byte"}
    return ", ".join(
        words[name].format(value) if name in words else f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in evaluation.items()
    )
