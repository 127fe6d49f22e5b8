"""What a run is: typed, frozen, complete.

A `Pretrain` has no unset fields: `defaults` builds one from the few flags that the others depend
on, and the command line overrides it. Its fields are grouped as `--help` shows them.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from models import CONFIGS, LlamaConfig
from train.config.optimizers import LEARNING_RATES, NO_GAP, SCALES, UPDATE_PROJ_GAPS, OptimizerName

SMALLEST_VOCABULARY = 257  # a token for every byte, and the end of text
STDLIB = "stdlib"
FILES = "files:"


class UserError(Exception):
    """What the user can mend: the message says what was given, what is needed and what to do."""

    status = 2  # of the process


DIVERGED = 3  # the status of a run whose numbers are no longer finite; 1 is Python's own, for a crash


# Windows per batch, tokens per window: tiny is for two CPU cores and a minute; 256 as in GaLore.
BATCHES = {"tiny": (16, 128)}
OTHER_BATCH = (32, 256)
STDLIB_MEGABYTES = 16.0  # enough for a few epochs of tiny, prepared within seconds

Precision = Literal["float32", "bfloat16"]
MomentPrecision = Literal["float32", "bfloat16", "float8"]
ModelName = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(CONFIGS) + "}")]


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "grass_optax").expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """The network."""

    model: ModelName = "tiny"
    """Size of the LLaMA."""
    vocab_size: int = CONFIGS["tiny"].vocab_size
    """Tokens of the vocabulary (32000 for models other than tiny)."""
    dtype: Precision = "float32"
    """Precision of the matrix products."""
    param_dtype: Precision = "float32"
    """Precision in which the parameters are kept."""
    remat: bool = False
    """Compute each block again in the backward pass, in place of keeping what it computed: memory
    for time.
    """

    def build(self) -> LlamaConfig:
        """Return the configuration of the network."""
        return dataclasses.replace(
            CONFIGS[self.model],
            vocab_size=self.vocab_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            remat=self.remat,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags:
    """The text. A batch depends on nothing but the seed and the step."""

    data: str = STDLIB
    """stdlib: Python files installed here. files:GLOB, quoted: text, .jsonl, .jsonl.gz,
    .parquet.
    """
    data_megabytes: float = STDLIB_MEGABYTES
    """Read at most this much text; 0 for all of it (0 for files)."""
    cache_dir: Path = dataclasses.field(default_factory=_cache_dir)
    """Where tokenizers and tokens are kept between runs."""
    batch_size: int = BATCHES["tiny"][0]
    """Windows of text in a batch (32 for models other than tiny)."""
    seq_len: int = BATCHES["tiny"][1]
    """Tokens predicted in a window (256 for models other than tiny)."""
    seed: int = 0
    """Draws the initial weights, the order of the text, the subspaces and the sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerFlags:
    """The optimizer. Rank and interval are for the subspace methods."""

    optimizer: Annotated[OptimizerName, tyro.conf.EnumChoicesFromValues] = OptimizerName.GRASSJUMP
    """Which method."""
    learning_rate: float = LEARNING_RATES[OptimizerName.GRASSJUMP]
    """At the peak (each optimizer has its own)."""
    adam_learning_rate: float | None = None
    """The same for what no method splits: embeddings, head, norms; for column_sgd norms (None:
    --learning-rate).
    """
    rank: int = CONFIGS["tiny"].hidden_size // 4
    """Dimension of the subspaces (a quarter of the hidden size)."""
    update_proj_gap: int = UPDATE_PROJ_GAPS[OptimizerName.GRASSJUMP]
    """Steps between two subspaces; for badam, between two blocks (each optimizer has its own)."""
    scale: float = SCALES[OptimizerName.GRASSJUMP]
    """Factor of the low-rank part; for adamw and muon, of the rate of the same weights (each has
    its own).
    """
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient of all weights together; 0 for no limit."""
    mu_dtype: MomentPrecision = "float32"
    """Precision in which first moments are kept (float8 with a scale for each column)."""
    nu_dtype: MomentPrecision = "float32"
    """The same for second moments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFlags:
    """How long. The learning rate rises in a line, then falls as a cosine."""

    steps: int = 300
    """Updates in all."""
    warmup_steps: int = 30
    """Updates until the peak (a tenth of --steps)."""
    final_lr_fraction: float = 0.1
    """Learning rate at the end, as a fraction of the peak."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """What is shown and kept."""

    log_every: int = 10
    """Steps between two lines where there is no terminal to draw on."""
    eval_every: int = 0
    """Steps between evaluations on held-out text; 0 for none but those at the start and the end."""
    eval_batches: int = 16
    """Batches of an evaluation."""
    save_every: int = 100
    """Steps between two checkpoints; the last two are kept."""
    sample_tokens: int = 64
    """Tokens to write at the end; 0 for none."""
    sample_prompt: str = "def "
    """What they go on from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """The devices."""

    mesh: str = ""
    """As data=2,fsdp=4,tensor=1: copies, shards of everything, shards of heads; -1 is what is left
    (one device).
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """The processes of a run over several machines. Not remembered: a run may go on with others."""

    distributed: bool = False
    """This is one of them. SLURM, Open MPI, Kubernetes and TPU pods say which; elsewhere the next
    three do.
    """
    coordinator_address: str | None = None
    """HOST:PORT of process 0, the same for all."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    heartbeat_timeout: int = 100
    """Seconds without a sign of one of them until the others give up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train a language model from scratch, or go on with such a run.

    The defaults shown go with tiny, grassjump, stdlib and 300 steps; others are in brackets.
    Ctrl-C and SIGTERM save and leave with status 0; a second one leaves at once.
    """

    run_dir: Path
    """Folder for the metrics, the checkpoints and the results. Must not hold another run."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --run-dir as if it had never stopped. Its flags are remembered."""
    processes: ProcessFlags = ProcessFlags()
    model: ModelFlags = ModelFlags()
    data: DataFlags = DataFlags()
    optimizer: OptimizerFlags = OptimizerFlags()
    schedule: ScheduleFlags = ScheduleFlags()
    report: ReportFlags = ReportFlags()
    devices: DeviceFlags = DeviceFlags()


GROUPS = {
    "model": ModelFlags,
    "data": DataFlags,
    "optimizer": OptimizerFlags,
    "schedule": ScheduleFlags,
    "report": ReportFlags,
    "devices": DeviceFlags,
}


def defaults(given: Pretrain) -> Pretrain:
    """Return what follows from the model, optimizer, corpus and steps that were `given`."""
    model, optimizer, steps = given.model.model, given.optimizer.optimizer, given.schedule.steps
    if model not in CONFIGS:
        raise UserError(f"--model {model} is unknown: choose one of {', '.join(CONFIGS)}.")
    batch_size, seq_len = BATCHES.get(model, OTHER_BATCH)
    return Pretrain(
        run_dir=given.run_dir,
        model=ModelFlags(model=model, vocab_size=CONFIGS[model].vocab_size),
        data=DataFlags(
            data=given.data.data,
            data_megabytes=STDLIB_MEGABYTES if given.data.data == STDLIB else 0.0,
            batch_size=batch_size,
            seq_len=seq_len,
        ),
        optimizer=OptimizerFlags(
            optimizer=optimizer,
            learning_rate=LEARNING_RATES[optimizer],
            scale=SCALES[optimizer],
            rank=CONFIGS[model].hidden_size // 4,
            update_proj_gap=UPDATE_PROJ_GAPS.get(optimizer, NO_GAP),
        ),
        schedule=ScheduleFlags(steps=steps, warmup_steps=max(steps, 0) // 10),
    )


def flags(config: Pretrain) -> dict[str, Any]:
    """Return every setting but run_dir, resume and the processes, by the name of its flag, as JSON
    has it.
    """
    merged = {key: value for group in GROUPS for key, value in vars(getattr(config, group)).items()}
    return merged | {
        "cache_dir": str(config.data.cache_dir.absolute()),
        "optimizer": str(config.optimizer.optimizer),
    }


def from_flags(settings: dict[str, Any], run_dir: Path) -> Pretrain:
    """Rebuild a configuration from what `flags` returned; a flag that did not exist then has its
    default.
    """
    settings = settings | {
        "cache_dir": Path(settings["cache_dir"]),
        "optimizer": OptimizerName(settings["optimizer"]),
    }
    groups = {
        name: group(**{f.name: settings[f.name] for f in dataclasses.fields(group) if f.name in settings})
        for name, group in GROUPS.items()
    }
    return Pretrain(run_dir=run_dir, **groups)
