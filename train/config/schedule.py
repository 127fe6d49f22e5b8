"""The schedule of a run, and parts of a run: a number of updates, or a percentage of them."""

import dataclasses
from typing import Annotated, Literal

import tyro

ScheduleName = Literal["cosine", "linear", "wsd", "constant"]
WSD, CONSTANT = "wsd", "constant"
Part = Annotated[int | str, tyro.conf.arg(metavar="UPDATES|PERCENT%")]
LONGEST_WARMUP = 1000  # by default: that of runs of 10,000 and of 100,000 updates in arXiv 2510.01878


def default_warmup(steps: int) -> int:
    """Return the updates of the warm-up of a run."""
    return min(max(steps, 0) // 10, LONGEST_WARMUP)


def updates_in(part: int | str, steps: int) -> int:
    """Return the updates that a part of a run has: their number, or a percentage such as "10%"."""
    return part if isinstance(part, int) else round(float(part.removesuffix("%")) * steps / 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveFlags:
    """The learning rate over a run; the last update has the last rate."""

    schedule: ScheduleName = "cosine"
    """After the warm-up: a cosine, a line, the peak and then a line (wsd), or the peak alone."""
    warmup: Part = "10%"
    """Updates up to the peak learning rate, or the percentage of updates, such as 10%."""
    cooldown: Part = "20%"
    """Updates of the line of wsd, or their percentage."""
    final_lr_fraction: float = 0.1
    """Learning rate of the last update, as a fraction of the peak."""

    @property
    def idle(self) -> dict[str, str]:
        """The flags that change nothing, each with the reason, as it ends "has no effect"."""
        acts = {"cooldown": self.schedule == WSD, "final_lr_fraction": self.schedule != CONSTANT}
        return {name: f"on --schedule {self.schedule}" for name, is_used in acts.items() if not is_used}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFlags(CurveFlags):
    """The schedule: a linear warm-up, then what --schedule says."""

    steps: int = 300
    """Number of updates."""
    warmup: Part = 30
    """Updates up to the peak learning rate, or a percentage. Default: 10%, at most 1000."""

    @property
    def warmup_updates(self) -> int:
        """The updates of the warm-up."""
        return updates_in(self.warmup, self.steps)

    @property
    def cooldown_updates(self) -> int:
        """The updates of the line of wsd."""
        return updates_in(self.cooldown, self.steps)
