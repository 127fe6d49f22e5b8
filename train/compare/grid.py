"""The runs of a comparison: a grid for each optimizer, and more seeds of the best of it."""

import dataclasses
from typing import NamedTuple

from train.compare.config import Comparison
from train.config.optimizer_flags import HAAR, BasisName
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.stored import Run, Settings, settings_of

# Settings that differ between cells. All others are common to the comparison.
OF_A_CELL = {"optimizer": ("optimizer", "basis", "learning_rate", "update_proj_gap", "scale"), "data": ("seed",)}


class Cell(NamedTuple):
    """One run of a comparison."""

    optimizer: OptimizerName
    basis: BasisName
    learning_rate: float
    scale: float
    seed: int

    @property
    def name(self) -> str:
        """What is compared: the optimizer, and its basis if it is not the default."""
        return contestant(self.optimizer, self.basis)

    @property
    def folder(self) -> str:
        """Name of its folder."""
        name = self.name.replace(":", "-")
        return f"{name}-lr{short(self.learning_rate)}-scale{short(self.scale)}-seed{self.seed}"


def contestant(optimizer: OptimizerName, basis: BasisName) -> str:
    """Return the name of a row of the table."""
    return optimizer if basis == HAAR else f"{optimizer}:{basis}"


def short(number: float) -> str:
    """Format a number exactly, without a trailing .0."""
    return repr(number).removesuffix(".0")


def seeds(config: Comparison) -> tuple[int, ...]:
    """Return the seeds, of which the first is that of the sweep."""
    return config.compare.seeds or (config.data.seed,)


def is_swept(config: Comparison) -> bool:
    """Whether a contestant has several cells, of which one is chosen."""
    return len(cells(config)) > len({cell.name for cell in cells(config)})


def reported_seeds(config: Comparison) -> tuple[int, ...]:
    """Return the seeds of the table.

    That of a sweep is left out if there are others: its best run was chosen for its luck, too.
    """
    return seeds(config)[1:] if is_swept(config) and len(seeds(config)) > 1 else seeds(config)


def cells(config: Comparison) -> list[Cell]:
    """Return the runs of the first seed, grouped by optimizer."""
    sweep, (first, *_) = config.compare, seeds(config)
    return [
        Cell(name, basis, learning_rate, scale, first)
        for name in sweep.optimizers
        for basis in (sweep.sweep_basis if sweep.sweep_basis and "basis" in OPTIMIZERS[name].takes else (HAAR,))
        for learning_rate in sweep.sweep_lr or (config.optimizer(name).learning_rate,)
        for scale in scales(config, name)
    ]


def scales(config: Comparison, name: OptimizerName) -> tuple[float, ...]:
    """Return the scales of an optimizer in a sweep of learning-rate ratios."""
    row, own, sweep = OPTIMIZERS[name], config.optimizer(name).scale, config.compare.sweep_scale
    if sweep is None or not row.has_scale:
        return (own,)
    return tuple(row.scale * scale**2 for scale in sweep) if row.scale_enters_as_root else sweep


def repeated(config: Comparison, cell: Cell) -> list[Cell]:
    """Return the runs of a cell with the other seeds."""
    return [cell._replace(seed=seed) for seed in seeds(config)[1:]]


def run_of(config: Comparison, cell: Cell) -> Run:
    """Return the configuration of the run of a cell."""
    optimizer = dataclasses.replace(
        config.optimizer(cell.optimizer), basis=cell.basis, learning_rate=cell.learning_rate, scale=cell.scale
    )
    return config.run(config.run_dir / cell.folder, optimizer, cell.seed)


def common_settings(config: Comparison) -> Settings:
    """Return the settings that all runs share."""
    settings = settings_of(run_of(config, cells(config)[0]))
    for group, names in OF_A_CELL.items():
        for name in names:
            del settings[group][name]
    return settings
