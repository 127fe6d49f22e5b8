"""The runs of a comparison: a grid for each optimizer, and more seeds of the best of it."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from train.compare.config import Comparison
from train.compare.sweeps import CHOSEN, Sweep, with_setting
from train.config.axes import idle
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.stored import Run, Settings, settings_of

# Settings that differ between optimizers. All others are common to the comparison, unless swept.
OF_AN_OPTIMIZER = {
    "optimizer": ("optimizer", "learning_rate", "update_proj_gap", "scale", "step_size"),
    "data": ("seed",),
}
Own = tuple[tuple[str, Any], ...]  # swept settings of a row, and their values


class Cell(NamedTuple):
    """One run of a comparison.

    Attributes:
      optimizer: Its optimizer.
      own: The swept settings that make it a row of its own; none that its optimizer does not have.
      learning_rate, scale: Of which the best are chosen.
      seed: Its seed.
      apart: Those of `own` that differ from the other runs of the comparison.
    """

    optimizer: OptimizerName
    own: Own
    learning_rate: float
    scale: float
    seed: int
    apart: Own = ()

    @property
    def name(self) -> str:
        """What is compared: the optimizer, and its swept settings."""
        return " ".join([self.optimizer, *_words(self.own)])

    @property
    def folder(self) -> str:
        """Name of its folder. What is not apart has no part in it: such runs are shared with a
        comparison that does not sweep.
        """
        names = "-".join([self.optimizer, *_words(self.apart)]).replace(":", "-")
        return f"{names}-lr{short(self.learning_rate)}-scale{short(self.scale)}-seed{self.seed}"


def _words(settings: Own) -> list[str]:
    return [f"{name}={short(value)}" for name, value in settings]


def short(value: Any) -> str:
    """Format a number exactly, without a trailing .0; and anything else as it is."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def seeds(config: Comparison) -> tuple[int, ...]:
    """Return the seeds that are asked for."""
    return config.compare.seeds or (config.data.seed,)


def is_swept(config: Comparison) -> bool:
    """Whether a row has several cells, of which one is chosen."""
    return len(cells_of_a_seed(config)) > len({cell.name for cell in cells_of_a_seed(config)})


def tuning_seeds(config: Comparison) -> tuple[int, ...]:
    """Return the seeds of the sweep, by which rates and scales are chosen: the first of --seeds
    unless there are others for it.
    """
    return (is_swept(config) and config.compare.tuning_seeds) or seeds(config)[:1]


def reported_seeds(config: Comparison) -> tuple[int, ...]:
    """Return the seeds of the table.

    Those of a sweep are left out if there are others: its best run was chosen for its luck, too.
    """
    others = tuple(seed for seed in seeds(config) if seed not in tuning_seeds(config))
    return others if is_swept(config) and others else seeds(config)


@functools.lru_cache(maxsize=8)
def cells_of_a_seed(config: Comparison) -> tuple[Cell, ...]:
    """Return the cells of one seed, grouped by optimizer."""
    return tuple(
        Cell(name, own, learning_rate, scale, seeds(config)[0], _apart(config, name, own))
        for name in config.compare.optimizers
        for own in rows_of(config, name)
        for learning_rate in swept(config, "learning_rate") or (config.optimizer(name).learning_rate,)
        for scale in scales(config, name)
    )


def cells(config: Comparison) -> list[Cell]:
    """Return the runs of the sweep, grouped by optimizer."""
    return [cell._replace(seed=seed) for cell in cells_of_a_seed(config) for seed in tuning_seeds(config)]


def repeated(config: Comparison, cell: Cell) -> list[Cell]:
    """Return the runs of a cell with the other seeds."""
    return [cell._replace(seed=seed) for seed in seeds(config) if seed not in tuning_seeds(config)]


def swept(config: Comparison, name: str) -> tuple[Any, ...]:
    """Return the values of a setting in the sweep; none if it is not swept."""
    return next((sweep.values for sweep in config.sweeps if sweep.name == name), ())


def rows_of(config: Comparison, name: OptimizerName) -> list[Own]:
    """Return the swept settings of each row of an optimizer, without those that do nothing."""
    sweeps = [sweep for sweep in config.sweeps if sweep.name not in CHOSEN]
    combined = itertools.product(*([(sweep, value) for value in sweep.values] for sweep in sweeps))
    return list(dict.fromkeys(_effective(config, name, combination) for combination in combined))


def _effective(config: Comparison, name: OptimizerName, settings: tuple[tuple[Sweep, Any], ...]) -> Own:
    run: Run = config.run(config.run_dir, config.optimizer(name), seeds(config)[0])
    for sweep, value in settings:
        run = with_setting(run, sweep.group, sweep.name, value)
    without_effect = (*idle(run.optimizer), *run.schedule.idle)
    return tuple((sweep.name, value) for sweep, value in settings if sweep.name not in without_effect)


def _apart(config: Comparison, name: OptimizerName, own: Own) -> Own:
    base = config.run(config.run_dir, _flags_of(config, name, own), seeds(config)[0])
    groups = {sweep.name: sweep.group for sweep in config.sweeps}
    return tuple((key, value) for key, value in own if getattr(getattr(base, groups[key]), key) != value)


def _flags_of(config: Comparison, name: OptimizerName, own: Own) -> OptimizerFlags:
    """Return the flags of an optimizer before the sweep sets its own; some depend on the rule."""
    return config.optimizer(name, dict(own).get("rule", OptimizerFlags.rule))


def scales(config: Comparison, name: OptimizerName) -> tuple[float, ...]:
    """Return the scales of an optimizer in a sweep of learning-rate ratios."""
    row, own, sweep = OPTIMIZERS[name], config.optimizer(name).scale, swept(config, "scale")
    if not sweep or not row.has_scale:
        return (own,)
    return tuple(row.scale * scale**2 for scale in sweep) if row.scale_enters_as_root else sweep


def run_of(config: Comparison, cell: Cell) -> Run:
    """Return the configuration of the run of a cell."""
    flags = _flags_of(config, cell.optimizer, cell.own)
    optimizer = dataclasses.replace(flags, learning_rate=cell.learning_rate, scale=cell.scale)
    run: Run = config.run(config.run_dir / cell.folder, optimizer, cell.seed)
    groups = {sweep.name: sweep.group for sweep in config.sweeps}
    for name, value in cell.own:
        run = with_setting(run, groups[name], name, value)
    return run


def unused(config: Comparison) -> Iterator[Sweep]:
    """Yield the sweeps that change nothing for any optimizer."""
    used = {name for cell in cells_of_a_seed(config) for name, _ in cell.own}
    for sweep in config.sweeps:
        has_scale = any(OPTIMIZERS[name].has_scale for name in config.compare.optimizers)
        if sweep.name not in (*used, "learning_rate") and not (sweep.name == "scale" and has_scale):
            yield sweep


def common_settings(config: Comparison) -> Settings:
    """Return the settings that all runs share, or have where a sweep does not say otherwise."""
    first = config.optimizer(config.compare.optimizers[0])
    settings = settings_of(config.run(config.run_dir, first, seeds(config)[0]))
    for group, names in OF_AN_OPTIMIZER.items():
        for name in names:
            del settings[group][name]
    return settings
