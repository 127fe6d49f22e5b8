"""What a table or a figure of a paper is: arms, and how their runs follow from a scale."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import search
from experiments.papers.scales import Scale, rank_of
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
      method: What is compared, and a line of the figure. Its first arm chooses the rates of all,
        unless the experiment tunes each arm.
      optimizer: Its optimizer.
      x: Where the point is; None for a row.
      settings: Flags of the optimizer, steps or windows that differ from those of the scale.
      preset: The trainer's --preset, if it is not that of the scale.
      model: Its model, if it is not that of the scale.
      printed: What the paper prints for it.
    """

    method: str
    optimizer: str
    x: float | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preset: str | None = None
    model: str | None = None
    printed: str = "-"


def arm_of(name: str) -> Arm:
    """An optimizer of the trainer under its own name."""
    return Arm(method=name, optimizer=name)


FROZEN = Arm(
    method="frozen + recovery", optimizer="assemble", settings={"rule": "frozen", "residual": "recovery"}
)  # the leading subspace of the first gradient


class Rates(NamedTuple):
    """What is chosen for a method before it is compared."""

    learning_rate: float
    scale: float
    is_final: bool  # no longer the trainer's, or those of a paper


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or a figure.

    Attributes:
      name: Of its files in docs/results.
      title: Of its tables.
      source: The paper and the table.
      arms: Its arms at a scale; the first is the reference.
      x: Name and unit of what the arms differ in; empty for rows.
      is_x_apart: Whether the figure has a panel of its own scale for each x, instead of lines.
        Losses of runs of several lengths differ more than those of methods.
      metric: "eval_loss" or "seconds".
      tunes: What is chosen for each method. Nothing for times, which do not depend on it; the scale
        says how much faster the matrices that a method splits learn than the other parameters.
      tunes_each_arm: Whether it is chosen for each arm instead.
    """

    name: str
    title: str
    source: str
    arms: Callable[[Scale], Sequence[Arm]]
    x: str = ""
    is_x_apart: bool = False
    metric: str = "eval_loss"
    tunes: tuple[Literal["learning_rate", "scale"], ...] = ("learning_rate",)
    tunes_each_arm: bool = False

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
        """The runs that choose the rates of each arm, as far as is known."""
        found = dict[Run, None]()
        for arm in self.arms(scale) if self._tuned(scale) else ():
            run_at, loss_at = self._search(scale, arm, outcomes)
            found |= dict.fromkeys(map(run_at, search.trials(loss_at, len(self.tunes))))
        return list(found)

    def best(self, scale: Scale, arm: Arm, outcomes: Mapping[Run, Outcome]) -> Rates:
        """The rates that are better than their neighbours; the trainer's until they are found."""
        axes = len(self._tuned(scale))
        run_at, loss_at = self._search(scale, arm, outcomes)
        point = search.best(loss_at, axes)
        chosen = run_at((0,) * axes if point is None else point)
        return Rates(chosen.learning_rate, chosen.scale, is_final=point is not None or not axes)

    def _tuned(self, scale: Scale) -> tuple[str, ...]:
        return () if scale.is_paper else self.tunes

    def _search(
        self, scale: Scale, arm: Arm, outcomes: Mapping[Run, Outcome]
    ) -> tuple[Callable[[search.Point], Run], Callable[[search.Point], float | None]]:
        """The trial some steps from the trainer's rates, and its loss if it was made."""
        first = next(one for one in self.arms(scale) if one.method == arm.method)
        usual = run_of(scale, arm if self.tunes_each_arm else first, scale.seed_of_rates)

        def run_at(point: search.Point) -> Run:
            steps = zip(self._tuned(scale), point, strict=True)
            return usual.at(**{name: search.FACTORS[name](count) * getattr(usual, name) for name, count in steps})

        def loss_at(point: search.Point) -> float | None:
            outcome = outcomes.get(run_at(point))
            return math.inf if outcome and outcome.eval_loss is None else outcome and outcome.eval_loss

        return run_at, loss_at

    def runs(self, scale: Scale, outcomes: Mapping[Run, Outcome]) -> list[Run]:
        """The runs of all arms: whole seeds first, so that one cut short is comparable."""
        by_arm = [self.by_seed(scale, arm, outcomes) for arm in self.arms(scale)]
        return [runs[seed] for seed in scale.seeds for runs in by_arm]

    def by_seed(self, scale: Scale, arm: Arm, outcomes: Mapping[Run, Outcome]) -> dict[int, Run]:
        """The runs of an arm at its rates."""
        rates = self.best(scale, arm, outcomes)
        return {
            seed: run_of(scale, arm, seed).at(learning_rate=rates.learning_rate, scale=rates.scale)
            for seed in scale.seeds
        }


def run_of(scale: Scale, arm: Arm, seed: int) -> Run:
    """The run of an arm at the trainer's rates."""
    config = _defaults_of(scale, arm)
    row, flags = OPTIMIZERS[arm.optimizer], config.optimizer
    settings = dict(arm.settings)
    others = {name: settings.pop(name) for name in ("steps", "batch_size") if name in settings}
    flags = dataclasses.replace(flags, **settings)
    subspaces: dict[str, Any] = {"rank": rank_of(config.model.model), "update_proj_gap": scale.update_proj_gap}
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
        steps=config.schedule.steps,
        seed=seed,
        **of_optimizer,
    ).at(**others)


def _defaults_of(scale: Scale, arm: Arm) -> Pretrain:
    preset = arm.preset or (scale.preset if arm.model is None else None)
    model = arm.model or scale.model if preset is None else PRESETS[preset].model
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
