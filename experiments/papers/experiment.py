"""What a table or a figure of a paper is: arms, and how their runs follow from a scale."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import search
from experiments.papers.scales import Scale
from experiments.papers.trained import STUDY, Outcome, Run, train
from experiments.study import Study
from train.config.axes import idle
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import OPTIMIZERS
from train.config.presets import PRESETS
from train.config.run import ModelFlags, Pretrain, defaults
from train.config.schedule import ScheduleFlags

RESULTS = Path("docs/results")
NEVER = 10**9  # an interval of more updates than any run has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """A row of a table, or a point of a figure.

    Attributes:
      method: What is compared. All arms of a method have the learning rate of its first.
      optimizer: Its optimizer.
      x: Where the point is; None for a row.
      settings: Flags of the optimizer, or steps, instead of those of the scale.
      preset: The trainer's --preset, instead of that of the scale.
      printed: What the paper prints for it.
    """

    method: str
    optimizer: str
    x: float | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preset: str | None = None
    printed: str = "-"


class Rates(NamedTuple):
    """What is chosen for a method before it is compared."""

    learning_rate: float
    scale: float


# Steps of the search: learning rates by factors of 2, scales by 1, 3, 10, 30 and so on.
FACTORS: dict[str, Callable[[int], float]] = {
    "learning_rate": lambda steps: 2.0**steps,
    "scale": lambda steps: float(f"{10 ** (steps / 2):.1g}"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or a figure.

    Attributes:
      name: Of its files in docs/results.
      title: Of its tables.
      source: The paper and the table.
      arms: Its arms at a scale; the first is the reference.
      x: Name and unit of what the arms differ in; empty for rows.
      metric: "eval_loss" or "seconds".
      tunes: What is chosen for each method. Nothing for times, which do not depend on it; the scale
        says how much faster the matrices that a method splits learn than the other parameters.
    """

    name: str
    title: str
    source: str
    arms: Callable[[Scale], Sequence[Arm]]
    x: str = ""
    metric: str = "eval_loss"
    tunes: tuple[Literal["learning_rate", "scale"], ...] = ("learning_rate",)

    @property
    def study(self) -> Study[Run, Outcome]:
        """How its runs are made; times are never those of runs of another experiment."""
        if self.metric != "seconds":
            return STUDY
        return dataclasses.replace(STUDY, train=functools.partial(train, subfolder=self.name))

    @property
    def results(self) -> Path:
        """The file of the finished runs, which experiments share, except times."""
        return RESULTS / (f"{self.name}.jsonl" if self.metric == "seconds" else "papers.jsonl")

    def trials(self, scale: Scale, outcomes: Mapping[Run, Outcome]) -> list[Run]:
        """The runs that choose the rates of each method, as far as is known."""
        found, axes = list[Run](), self._axes(scale)
        for arm in _firsts(self.arms(scale)) if axes else ():
            run_at, loss_at = self._search(scale, arm, outcomes)
            found += map(run_at, search.trials(loss_at, axes))
        return found

    def best(self, scale: Scale, arm: Arm, outcomes: Mapping[Run, Outcome]) -> Rates:
        """The rates that are better than their neighbours; the trainer's until they are found."""
        run_at, loss_at = self._search(scale, arm, outcomes)
        chosen = run_at(search.best(loss_at, self._axes(scale)) or ())
        return Rates(chosen.learning_rate, chosen.scale)

    def _axes(self, scale: Scale) -> int:
        return len(self.tunes) if scale.is_tuned else 0

    def _search(
        self, scale: Scale, arm: Arm, outcomes: Mapping[Run, Outcome]
    ) -> tuple[Callable[[search.Point], Run], Callable[[search.Point], float | None]]:
        """The trial some steps from the trainer's rates, and its loss if it was made."""
        usual = run_of(scale, arm, scale.seed_of_rates)

        def run_at(point: search.Point) -> Run:
            steps = dict(zip(self.tunes, point, strict=False))
            return usual.at(**{name: FACTORS[name](count) * getattr(usual, name) for name, count in steps.items()})

        def loss_at(point: search.Point) -> float | None:
            outcome = outcomes.get(run_at(point))
            return math.inf if outcome and outcome.eval_loss is None else outcome and outcome.eval_loss

        return run_at, loss_at

    def runs(self, scale: Scale, outcomes: Mapping[Run, Outcome]) -> list[Run]:
        """The runs of all arms: whole seeds first, so that one cut short is comparable."""
        return [run for seed in scale.seeds for run in self.by_arm(scale, outcomes, seed)]

    def by_arm(self, scale: Scale, outcomes: Mapping[Run, Outcome], seed: int) -> list[Run]:
        """The run of each arm with a seed, each at the rates of its method."""
        arms = self.arms(scale)
        rates = {arm.method: self.best(scale, arm, outcomes) for arm in _firsts(arms)}
        return [run_of(scale, arm, seed).at(**rates[arm.method]._asdict()) for arm in arms]


def _firsts(arms: Sequence[Arm]) -> list[Arm]:
    found: dict[str, Arm] = {}
    for arm in arms:
        found.setdefault(arm.method, arm)
    return list(found.values())


def run_of(scale: Scale, arm: Arm, seed: int) -> Run:
    """The run of an arm at the trainer's rates."""
    config = _defaults_of(scale, arm)
    row, flags = OPTIMIZERS[arm.optimizer], config.optimizer
    settings = dict(arm.settings)
    steps = settings.pop("steps", config.schedule.steps)
    flags = dataclasses.replace(flags, **settings)
    subspaces: dict[str, Any] = {"rank": scale.rank, "update_proj_gap": scale.update_proj_gap}
    if arm.preset is None:
        keeps = {*settings, *idle(flags)} if row.refreshes else {*settings, *idle(flags), "update_proj_gap"}
        flags = dataclasses.replace(flags, **{name: value for name, value in subspaces.items() if name not in keeps})
    names = {field.name for field in dataclasses.fields(Run)}
    of_optimizer = {name: value for name, value in dataclasses.asdict(flags).items() if name in names}
    return Run(
        model=config.model.model,
        precision=config.model.precision,
        data=scale.data,
        batch_size=config.data.batch_size,
        accumulate=config.data.accumulate,
        steps=steps,
        seed=seed,
        **of_optimizer,
    )


def _defaults_of(scale: Scale, arm: Arm) -> Pretrain:
    preset = arm.preset or scale.preset
    model = scale.model if preset is None else PRESETS[preset].model
    steps = scale.steps if arm.preset is None else PRESETS[arm.preset].steps
    rule = arm.settings.get("rule", OptimizerFlags.rule)  # a preset gives those that track their step
    parsed = Pretrain(
        run_dir=Path(),
        preset=preset,
        model=ModelFlags(model=model),
        optimizer=OptimizerFlags(optimizer=arm.optimizer, rule=rule),
        schedule=ScheduleFlags(steps=steps),
    )
    return defaults(parsed)
