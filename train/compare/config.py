"""What a comparison is: optimizers, the sweep of each, and the ordinary run behind each of its
cells.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from train.config.optimizers import LEARNING_RATES, NO_GAP, SCALES, UPDATE_PROJ_GAPS, WITHOUT_SCALE, OptimizerName
from train.config.run import (
    DataFlags,
    ModelFlags,
    OptimizerFlags,
    Pretrain,
    ReportFlags,
    ScheduleFlags,
    defaults,
    flags,
)

# What belongs to a cell, or follows from its optimizer. All other flags are common to the
# comparison.
OF_A_CELL = ("optimizer", "learning_rate", "adam_learning_rate", "update_proj_gap", "scale")
EVALUATIONS = 10  # of a run, for the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """The optimizers. Without a sweep, each has its own learning rate, scale and interval."""

    optimizers: Annotated[tuple[OptimizerName, ...], tyro.conf.EnumChoicesFromValues] = ()
    """Which methods."""
    sweep_lr: tuple[float, ...] | None = None
    """Try these peak learning rates with each."""
    sweep_scale: tuple[float, ...] | None = None
    """Try these scales with each, in all combinations. They are ratios of rates: apollo gets their
    squares and apollo_mini 128 times these, for it takes the root; badam has none.
    """
    rank: int = OptimizerFlags.rank
    """Dimension of the subspaces (a quarter of the hidden size)."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient of all weights together; 0 for no limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Train with several optimizers on the same data from the same weights: a table and a plot.

    The defaults shown go with tiny, stdlib and 300 steps; others are in brackets. Every run is one
    of `pretrain`, in a process and in a folder of its own in --run-dir; of those of an optimizer,
    the best keeps its checkpoints. Given again, the same command goes on where it was stopped, and
    more optimizers or values may be added to it.
    """

    run_dir: Path
    """Folder for the table, the plot and the runs. Must not hold anything else."""
    compare: CompareFlags = CompareFlags()
    model: ModelFlags = dataclasses.field(default_factory=ModelFlags)
    data: DataFlags = dataclasses.field(default_factory=DataFlags)
    schedule: ScheduleFlags = dataclasses.field(default_factory=ScheduleFlags)
    report: ReportFlags = dataclasses.field(default_factory=ReportFlags)


class Cell(NamedTuple):
    """One run of a comparison."""

    optimizer: OptimizerName
    learning_rate: float
    scale: float

    @property
    def folder(self) -> str:
        """Name of its folder, and the label of its curve."""
        return f"{self.optimizer}-lr{short(self.learning_rate)}-scale{short(self.scale)}"


def short(number: float) -> str:
    """Spell a number so that it is read back exactly, without a final .0."""
    return repr(number).removesuffix(".0")


def compare_defaults(given: Compare) -> Compare:
    """Return what follows from the model, corpus and steps that were `given`."""
    run = defaults(Pretrain(run_dir=given.run_dir, model=given.model, data=given.data, schedule=given.schedule))
    eval_every = max(run.schedule.steps // EVALUATIONS, 1)
    return Compare(
        run_dir=given.run_dir,
        compare=CompareFlags(optimizers=given.compare.optimizers, rank=run.optimizer.rank),
        model=run.model,
        data=run.data,
        schedule=run.schedule,
        report=dataclasses.replace(run.report, eval_every=eval_every, sample_tokens=0),
    )


def cells(config: Compare) -> list[Cell]:
    """Return the runs to make, those of an optimizer side by side."""
    sweep = config.compare
    return [
        Cell(name, learning_rate, scale)
        for name in sweep.optimizers
        for learning_rate in sweep.sweep_lr or (LEARNING_RATES[name],)
        for scale in scales(name, sweep.sweep_scale)
    ]


def scales(name: OptimizerName, sweep: tuple[float, ...] | None) -> tuple[float, ...]:
    """Return the scales that a sweep means for this optimizer."""
    if sweep is None or name in WITHOUT_SCALE:
        return (SCALES[name],)
    if name in (OptimizerName.APOLLO, OptimizerName.APOLLO_MINI):
        # Theirs enters as its square root, and 128 is APOLLO-Mini's 1: this makes the sweep one of
        # rates for all.
        return tuple(SCALES[name] * scale**2 for scale in sweep)
    return sweep


def run_of(config: Compare, cell: Cell) -> Pretrain:
    """Return the run behind a cell."""
    optimizer = OptimizerFlags(
        optimizer=cell.optimizer,
        learning_rate=cell.learning_rate,
        scale=cell.scale,
        rank=config.compare.rank,
        update_proj_gap=UPDATE_PROJ_GAPS.get(cell.optimizer, NO_GAP),
        weight_decay=config.compare.weight_decay,
        clip=config.compare.clip,
    )
    return Pretrain(
        run_dir=config.run_dir / cell.folder,
        model=config.model,
        data=config.data,
        optimizer=optimizer,
        schedule=config.schedule,
        report=config.report,
    )


def spelt(name: str, value: object) -> str:
    """Return a flag with its value; one that is on or off has its negation in place of a value."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value}"


def arguments(run: Pretrain) -> list[str]:
    """Return the command line of a run, every flag spelt out."""
    settings = {"run_dir": run.run_dir, **flags(run)}
    return ["pretrain", *(spelt(name, value) for name, value in settings.items())]


def common_flags(config: Compare) -> dict[str, Any]:
    """Return the settings that all runs share, as JSON has them."""
    settings = flags(run_of(config, cells(config)[0]))
    return {name: value for name, value in settings.items() if name not in OF_A_CELL}
