"""What a fine-tuning run is; see `train.config.run` for what it shares with `pretrain`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from models.config import Remat
from models.encoder_config import EncoderConfig
from models.hf_config import from_hf_config
from train.config.machine_flags import DeviceFlags, ProcessFlags
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import NO_GAP, OPTIMIZERS, OptimizerName
from train.config.run import AttentionName, LogitsName, PrecisionName, ReportFlags, UserError, WeightsName
from train.config.schedule import CurveFlags, Part, ScheduleFlags
from train.storage.model import read_settings

TaskName = Literal["language", "classification", "regression"]
MetricName = Literal["eval_loss", "accuracy", "f1", "matthews", "pearson", "spearman"]
LANGUAGE, CLASSIFICATION, REGRESSION = get_args(TaskName)
RANK = 8  # of SubTrack-Grad's and GaLore's fine-tuning runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartFlags:
    """The model to start from."""

    init_from: Path = Path()
    """Folder of an import (python -m train import) or of a run."""
    init_step: int | None = None
    """Checkpoint to start from; by default the newest."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by patterns such as 'embed/*' or 'layers/mlp/*'."""
    precision: PrecisionName = "float32"
    """mixed: products in bfloat16. bfloat16: weights too, rounded at random without bias."""
    weights: WeightsName = "float"
    """int8: kernels of the layers in 8 bits, with a scale for 256 of a column, to save memory."""
    attention: AttentionName = "auto"
    """cudnn: flash attention on NVIDIA GPUs, in bfloat16. auto takes it where it can be used."""
    logits: LogitsName = "auto"
    """chunked: logits are never whole, to save memory. auto: for vocabularies of 16000 and more."""
    remat: Remat = "none"
    """Recompute in the backward pass, to save memory: block, or all of it but products (dots)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleFlags:
    """The examples. A batch depends only on the seed and the step."""

    data: str = ""
    """'files:GLOB': text, or .jsonl, .csv, .tsv, .parquet with the fields of the task."""
    task: TaskName = "language"
    """language: "text", or "prompt" and "completion". The others, of encoders: text and label."""
    text_fields: tuple[str, ...] = ("text",)
    """Names of the fields with the text, or with the two texts, to classify."""
    label_field: str = "label"
    """Name of the field with the class, or the number."""
    held_out: str = ""
    """'files:GLOB' of the examples to evaluate on; by default 5 % of those of --data."""
    batch_size: int = 16
    """Rows per update."""
    accumulate: int = 1
    """Compute each batch in this many parts, to save memory; it must divide --batch-size."""
    seq_len: int = 512
    """Tokens per row: short examples share one, long texts are cut. At most the model's."""
    seed: int = 0
    """Seed of the order of the examples, the subspaces, a new head and the sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochFlags(CurveFlags):
    """The schedule: a linear warm-up, then what --schedule says."""

    epochs: float = 3.0
    """Passes over the examples."""
    steps: int | None = None
    """Number of updates, instead of --epochs."""
    warmup: Part = "6%"
    """Updates up to the peak learning rate, or the percentage of updates, such as 10%."""
    final_lr_fraction: float = 0.0
    """Learning rate of the last update, as a fraction of the peak."""

    @property
    def idle(self) -> dict[str, str]:
        """The flags that change nothing, each with the reason."""
        return super().idle | ({} if self.steps is None else {"epochs": f"beside --steps {self.steps}"})

    def in_updates(self, rows: int, batch_size: int) -> ScheduleFlags:
        """Return the schedule in updates, for `rows` rows per epoch."""
        curve = {field.name: getattr(self, field.name) for field in dataclasses.fields(CurveFlags)}
        return ScheduleFlags(steps=self.steps or max(round(self.epochs * rows / batch_size), 1), **curve)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreFlags(ReportFlags):
    """Logging, evaluation, checkpoints and the sample."""

    eval_batches: int = 0
    """Batches per evaluation; 0 for all held-out examples."""
    sample_prompt: str = ""
    """Prompt for the sample of a language model; by default that of a held-out example."""
    metric: Annotated[
        MetricName,
        tyro.conf.arg(
            help="What --patience watches, and compare-finetune chooses by: eval_loss; of classes accuracy, f1, "
            "matthews; of numbers pearson, spearman."
        ),
    ] = "eval_loss"
    patience: int = 0
    """Stop after this many evaluations without a better one; keep the best checkpoint. 0: never."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tune a language model, or an encoder on labelled texts; or resume a run.

    A language model learns texts, or the completions of prompts; a row holds several examples,
    which do not see each other. Ctrl-C, SIGTERM and SIGHUP save a checkpoint and exit with status
    0; a second signal exits immediately.
    """

    run_dir: Path
    """Folder for metrics, checkpoints and results. Must not contain another run."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Resume the run in --run-dir exactly where it stopped. Its settings are restored."""
    config: Path | None = None
    """Take all settings from the config.json of another run; other flags override them."""
    processes: ProcessFlags = dataclasses.field(default_factory=ProcessFlags)
    start: StartFlags = StartFlags()
    data: ExampleFlags = ExampleFlags()
    optimizer: OptimizerFlags = dataclasses.field(default_factory=lambda: finetuning_optimizer("grassjump"))
    schedule: EpochFlags = EpochFlags()
    report: ScoreFlags = dataclasses.field(default_factory=ScoreFlags)
    devices: DeviceFlags = dataclasses.field(default_factory=DeviceFlags)


def finetune_defaults(parsed: Finetune) -> Finetune:
    """Return the defaults that follow from the optimizer and the model of `parsed`."""
    if parsed.start.init_from == StartFlags.init_from:
        raise UserError("--init-from is missing: give the folder of an import or of a run.")
    network = from_hf_config(settings := read_settings(parsed.start.init_from))
    if is_encoder := isinstance(network, EncoderConfig):
        longest = network.max_positions
    else:
        longest = settings.get("max_position_embeddings", ExampleFlags.seq_len)
    return Finetune(
        run_dir=parsed.run_dir,
        start=StartFlags(init_from=parsed.start.init_from),
        data=ExampleFlags(
            seq_len=min(ExampleFlags.seq_len, int(longest)), task=CLASSIFICATION if is_encoder else LANGUAGE
        ),
        optimizer=finetuning_optimizer(parsed.optimizer.optimizer),
    )


def finetuning_optimizer(name: OptimizerName) -> OptimizerFlags:
    """Return the flags of an optimizer with its own defaults for fine-tuning."""
    recipe = OPTIMIZERS[name].finetuning
    return OptimizerFlags(
        optimizer=name,
        learning_rate=recipe.learning_rate,
        rank=RANK,
        scale=recipe.scale,
        update_proj_gap=recipe.update_proj_gap or NO_GAP,
    )
