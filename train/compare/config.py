"""The flags of a comparison, of pretraining or of fine-tuning, and the runs they describe."""

import dataclasses
from pathlib import Path

import tyro

from train.compare.sweeps import Sweep, sweeps_of
from train.config.finetune import (
    LANGUAGE,
    RANK,
    EpochFlags,
    ExampleFlags,
    Finetune,
    ScoreFlags,
    StartFlags,
    finetune_defaults,
    finetuning_optimizer,
)
from train.config.optimizer_flags import Decay, OptimizerFlags, RuleName, default_optimizer
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.presets import PRESETS, PresetName
from train.config.run import DataFlags, ModelFlags, Pretrain, ReportFlags, defaults
from train.config.schedule import ScheduleFlags
from train.config.validate import METRICS

EVALUATIONS = 10  # per run of pretraining, for the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """The optimizers. Without a sweep, each uses its default learning rate, scale and interval."""

    optimizers: tuple[OptimizerName, ...] = ()
    """Optimizers to compare."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=VALUE,VALUE of the runs; repeat it for more. For each row of the table the best
    learning_rate and scale (a ratio of rates) are chosen; other settings make rows."""
    seeds: tuple[int, ...] | None = None
    """Seeds to train with, instead of --seed. Rates and scales are chosen by the first, which is
    then not in the table; or by --tuning-seeds."""
    tuning_seeds: tuple[int, ...] | None = None
    """Seeds to choose learning rates and scales by; the table has those of --seeds."""
    adam_learning_rate: float | None = None
    """Peak learning rate of parameters that are not split; by default that of the others."""
    update_proj_gap: int | None = None
    """Steps between subspaces, the same for all; by default each optimizer's own."""
    rank: int = OptimizerFlags.rank
    """Dimension of the subspaces; by default a quarter of the hidden size, 8 for fine-tuning."""
    weight_decay: float = 0.0
    """Decoupled weight decay: an update also takes this times the learning rate off a weight."""
    decay: Decay = "matrices"
    """What decays: the kernels of the layers, or all parameters."""
    clip: float = 1.0
    """Clip the gradient to this global norm; 0 for no clipping."""

    def applied_to(self, optimizer: OptimizerFlags) -> OptimizerFlags:
        """Return the flags of an optimizer with the settings that all share."""
        has_gap = OPTIMIZERS[optimizer.optimizer].update_proj_gap is not None
        gap = self.update_proj_gap if has_gap and self.update_proj_gap is not None else optimizer.update_proj_gap
        return dataclasses.replace(
            optimizer,
            rank=self.rank,
            adam_learning_rate=self.adam_learning_rate,
            update_proj_gap=gap,
            weight_decay=self.weight_decay,
            decay=self.decay,
            clip=self.clip,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Train with several optimizers from the same weights on the same data: a table and a plot.

    Each run is an ordinary `pretrain` run in a separate process, with a folder in --run-dir;
    checkpoints are kept for the best run of each optimizer. Run the command again to resume where
    it stopped, with more optimizers, values or seeds if you like. The defaults below are for tiny,
    stdlib and 300 steps.
    """

    run_dir: Path
    """Folder for the table, the plot and the runs. Must not contain anything else."""
    preset: PresetName | None = None
    """The settings of a paper, which other flags override: see the command presets."""
    compare: CompareFlags = CompareFlags()
    model: ModelFlags = dataclasses.field(default_factory=ModelFlags)
    data: DataFlags = dataclasses.field(default_factory=DataFlags)
    schedule: ScheduleFlags = dataclasses.field(default_factory=ScheduleFlags)
    report: ReportFlags = dataclasses.field(default_factory=ReportFlags)

    metrics = ("eval_loss", "bits_per_byte")  # of its table
    metric = "eval_loss"  # by which the best run is chosen

    @property
    def sweeps(self) -> list[Sweep]:
        """What is swept."""
        return sweeps_of(self.compare.sweep, Pretrain)

    @property
    def title(self) -> str:
        """What all runs train."""
        return f"{self.model.model}, {self.schedule.steps} steps"

    def optimizer(self, name: OptimizerName, rule: RuleName = OptimizerFlags.rule) -> OptimizerFlags:
        """Return the flags of an optimizer, with its own rate and scale, made for a --rule."""
        flags = default_optimizer(name, self.model.model)
        return self.compare.applied_to(flags if self.preset is None else PRESETS[self.preset].optimizer(flags, rule))

    def run(self, run_dir: Path, optimizer: OptimizerFlags, seed: int) -> Pretrain:
        """Return the configuration of a run."""
        data = dataclasses.replace(self.data, seed=seed)
        return Pretrain(
            run_dir=run_dir,
            model=self.model,
            data=data,
            optimizer=optimizer,
            schedule=self.schedule,
            report=self.report,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareFinetune:
    """Fine-tune a model with several optimizers on the same examples: a table and a plot.

    Each run is an ordinary `finetune` run; the rest is as with `compare`. The best run is the one
    with the best --metric: accuracy of classes, Pearson's correlation of numbers, else eval_loss.
    """

    run_dir: Path
    """Folder for the table, the plot and the runs. Must not contain anything else."""
    compare: CompareFlags = CompareFlags(rank=RANK)
    start: StartFlags = dataclasses.field(default_factory=StartFlags)
    data: ExampleFlags = dataclasses.field(default_factory=ExampleFlags)
    schedule: EpochFlags = dataclasses.field(default_factory=EpochFlags)
    report: ScoreFlags = dataclasses.field(default_factory=ScoreFlags)

    @property
    def sweeps(self) -> list[Sweep]:
        """What is swept."""
        return sweeps_of(self.compare.sweep, Finetune)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of its table."""
        return METRICS[self.data.task]

    @property
    def metric(self) -> str:
        """The metric by which the best run is chosen."""
        return self.report.metric

    @property
    def title(self) -> str:
        """What all runs train."""
        length = f"{self.schedule.steps} steps" if self.schedule.steps else f"{self.schedule.epochs:g} epochs"
        return f"{self.start.init_from}, {length}"

    def optimizer(self, name: OptimizerName, rule: RuleName = OptimizerFlags.rule) -> OptimizerFlags:
        """Return the flags of an optimizer, with its own rate and scale, the same for all rules."""
        del rule
        return self.compare.applied_to(finetuning_optimizer(name))

    def run(self, run_dir: Path, optimizer: OptimizerFlags, seed: int) -> Finetune:
        """Return the configuration of a run; the metric is its own with early stopping only."""
        report = self.report
        if not (report.patience or report.keep_best):
            report = dataclasses.replace(report, metric=ScoreFlags.metric)
        data = dataclasses.replace(self.data, seed=seed)
        return Finetune(
            run_dir=run_dir, start=self.start, data=data, optimizer=optimizer, schedule=self.schedule, report=report
        )


Comparison = Compare | CompareFinetune


def compare_defaults(parsed: Compare) -> Compare:
    """Return the defaults that follow from the model, corpus and steps of `parsed`."""
    flags = {name: getattr(parsed, name) for name in ("run_dir", "preset", "model", "data", "schedule")}
    run = defaults(Pretrain(**flags))
    eval_every = max(run.schedule.steps // EVALUATIONS, 1)
    return Compare(
        run_dir=parsed.run_dir,
        preset=parsed.preset,
        compare=CompareFlags(optimizers=parsed.compare.optimizers, rank=run.optimizer.rank),
        model=run.model,
        data=run.data,
        schedule=run.schedule,
        report=dataclasses.replace(run.report, eval_every=eval_every, sample_tokens=0),
    )


def compare_finetune_defaults(parsed: CompareFinetune) -> CompareFinetune:
    """Return the defaults that follow from the model and the task of `parsed`."""
    run = finetune_defaults(Finetune(run_dir=parsed.run_dir, start=parsed.start))
    task = run.data.task if parsed.data.task == LANGUAGE else parsed.data.task
    metric = METRICS[task][:2][-1]  # accuracy or Pearson's correlation, if there is one
    return CompareFinetune(
        run_dir=parsed.run_dir,
        compare=CompareFlags(optimizers=parsed.compare.optimizers, rank=run.optimizer.rank),
        start=run.start,
        data=run.data,
        report=dataclasses.replace(run.report, metric=metric, sample_tokens=0),
    )
