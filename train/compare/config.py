"""The configuration of a comparison: optimizers, sweeps, and the ordinary run of each cell."""

import dataclasses
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.run import (
    HAAR,
    BasisName,
    DataFlags,
    Decay,
    ModelFlags,
    OptimizerFlags,
    Pretrain,
    ReportFlags,
    default_optimizer,
    defaults,
)
from train.config.schedule import ScheduleFlags
from train.config.stored import Settings, settings_of

# Settings of the optimizer that differ between cells. All others are common to the comparison.
OF_A_CELL = ("optimizer", "basis", "learning_rate", "adam_learning_rate", "update_proj_gap", "scale")
EVALUATIONS = 10  # per run, for the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """The optimizers. Without a sweep, each uses its default learning rate, scale and interval."""

    optimizers: tuple[OptimizerName, ...] = ()
    """Optimizers to compare."""
    sweep_lr: tuple[float, ...] | None = None
    """Peak learning rates to try with each optimizer."""
    sweep_scale: Annotated[
        tuple[float, ...] | None,
        tyro.conf.arg(
            help="Scales to try with each optimizer and learning rate. Scales are learning-rate ratios. APOLLO takes a "
            "square root, so it is given scale², and APOLLO-Mini 128·scale²; BAdam has no scale."
        ),
    ] = None
    sweep_basis: tuple[BasisName, ...] | None = None
    """Random bases to compare for grassjump, each in a row of its own; see pretrain --basis."""
    rank: int = OptimizerFlags.rank
    """Dimension of the subspaces; by default a quarter of the hidden size."""
    weight_decay: float = 0.0
    """Decoupled weight decay: an update also takes this times the learning rate off a weight."""
    decay: Decay = "matrices"
    """What decays: the kernels of the layers, or all parameters."""
    clip: float = 1.0
    """Clip the gradient to this global norm; 0 for no clipping."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Train with several optimizers from the same weights on the same data: a table and a plot.

    Each run is an ordinary `pretrain` run in a separate process, with a folder in --run-dir;
    checkpoints are kept for the best run of each optimizer. Run the command again to resume where
    it stopped, with more optimizers or values if you like. The defaults below are for tiny, stdlib
    and 300 steps.
    """

    run_dir: Path
    """Folder for the table, the plot and the runs. Must not contain anything else."""
    compare: CompareFlags = CompareFlags()
    model: ModelFlags = dataclasses.field(default_factory=ModelFlags)
    data: DataFlags = dataclasses.field(default_factory=DataFlags)
    schedule: ScheduleFlags = dataclasses.field(default_factory=ScheduleFlags)
    report: ReportFlags = dataclasses.field(default_factory=ReportFlags)


class Cell(NamedTuple):
    """One run of a comparison."""

    optimizer: OptimizerName
    basis: BasisName
    learning_rate: float
    scale: float

    @property
    def name(self) -> str:
        """What is compared: the optimizer, and its basis if it is not the default."""
        return contestant(self.optimizer, self.basis)

    @property
    def folder(self) -> str:
        """Name of its folder."""
        name = self.name.replace(":", "-")
        return f"{name}-lr{short(self.learning_rate)}-scale{short(self.scale)}"


def contestant(optimizer: OptimizerName, basis: BasisName) -> str:
    """Return the name of a row of the table."""
    return optimizer if basis == HAAR else f"{optimizer}:{basis}"


def short(number: float) -> str:
    """Format a number exactly, without a trailing .0."""
    return repr(number).removesuffix(".0")


def compare_defaults(parsed: Compare) -> Compare:
    """Return the defaults that follow from the model, corpus and steps of `parsed`."""
    run = defaults(Pretrain(run_dir=parsed.run_dir, model=parsed.model, data=parsed.data, schedule=parsed.schedule))
    eval_every = max(run.schedule.steps // EVALUATIONS, 1)
    return Compare(
        run_dir=parsed.run_dir,
        compare=CompareFlags(optimizers=parsed.compare.optimizers, rank=run.optimizer.rank),
        model=run.model,
        data=run.data,
        schedule=run.schedule,
        report=dataclasses.replace(run.report, eval_every=eval_every, sample_tokens=0),
    )


def cells(config: Compare) -> list[Cell]:
    """Return the runs of a comparison, grouped by optimizer."""
    sweep = config.compare
    return [
        Cell(name, basis, learning_rate, scale)
        for name in sweep.optimizers
        for basis in (sweep.sweep_basis if sweep.sweep_basis and "basis" in OPTIMIZERS[name].takes else (HAAR,))
        for learning_rate in sweep.sweep_lr or (OPTIMIZERS[name].pretraining(config.model.model).learning_rate,)
        for scale in scales(config, name)
    ]


def scales(config: Compare, name: OptimizerName) -> tuple[float, ...]:
    """Return the scales of an optimizer; those of a sweep are ratios of learning rates."""
    row, sweep = OPTIMIZERS[name], config.compare.sweep_scale
    if sweep is None or not row.has_scale:
        return (row.pretraining(config.model.model).scale,)
    return tuple(row.scale * scale**2 for scale in sweep) if row.scale_enters_as_root else sweep


def run_of(config: Compare, cell: Cell) -> Pretrain:
    """Return the configuration of the run of a cell."""
    optimizer = dataclasses.replace(
        default_optimizer(cell.optimizer, config.model.model),
        rank=config.compare.rank,
        basis=cell.basis,
        learning_rate=cell.learning_rate,
        scale=cell.scale,
        weight_decay=config.compare.weight_decay,
        decay=config.compare.decay,
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


def common_settings(config: Compare) -> Settings:
    """Return the settings that all runs share."""
    settings = settings_of(run_of(config, cells(config)[0]))
    for name in OF_A_CELL:
        del settings["optimizer"][name]
    return settings
