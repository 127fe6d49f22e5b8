"""What a run is: typed, frozen, complete.

A `Pretrain` has no unset fields: `defaults` builds one from the few flags that the others depend
on, and the command line overrides it. Its fields are grouped as `--help` shows them.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from models.config import CONFIGS, LlamaConfig, Remat
from train.config.machine_flags import DeviceFlags, ProcessFlags
from train.config.optimizer_flags import OptimizerFlags, default_optimizer
from train.config.presets import PRECISION, PRESETS, PresetName
from train.config.schedule import ScheduleFlags, default_warmup

SMALLEST_VOCABULARY = 257  # a token for every byte, and the end of text
STDLIB = "stdlib"
FILES = "files:"
HUB = "hf:"


class UserError(Exception):
    """An error the user can fix.

    The message states what was given, what is required, and how to fix it.
    """

    status = 2  # of the process


DIVERGED = 3  # exit status of a run whose loss or state is no longer finite; Python itself uses 1 for a crash


class Diverged(UserError):
    """A loss or a state is infinite or nan."""

    status = DIVERGED


# Windows per batch, tokens per window. tiny takes a minute on two CPU cores; 256 follows GaLore.
BATCHES = {"tiny": (16, 128)}
OTHER_BATCH = (32, 256)
STDLIB_MEGABYTES = 16.0  # enough for a few epochs of tiny, prepared within seconds

Precision = Literal["float32", "bfloat16"]
PrecisionName = Literal["float32", "mixed", "bfloat16"]
AttentionName = Literal["auto", "xla", "cudnn"]
LogitsName = Literal["auto", "whole", "chunked"]
WeightsName = Literal["float", "int8"]
INT8: WeightsName = "int8"


class Types(NamedTuple):
    """What a precision means."""

    products: Precision  # and activations
    weights: Precision


PRECISIONS: dict[PrecisionName, Types] = {
    "float32": Types("float32", "float32"),
    "mixed": Types("bfloat16", "float32"),
    "bfloat16": Types("bfloat16", "bfloat16"),
}
TrackerName = Literal["tensorboard", "wandb", "trackio"]
ModelName = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(CONFIGS) + "}")]


def default_cache_dir() -> Path:
    """Return the folder of caches of a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "grass_optax").expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """The model."""

    model: ModelName = "tiny"
    """Size of the model: a LLaMA, or qwen2-1.5b."""
    vocab_size: int = CONFIGS["tiny"].vocab_size
    """Size of the vocabulary; that of the model by default, mostly 32000."""
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

    def build(self) -> LlamaConfig:
        """Return the configuration of the network."""
        types = PRECISIONS[self.precision]
        return dataclasses.replace(
            CONFIGS[self.model],
            vocab_size=self.vocab_size,
            dtype=types.products,
            param_dtype=types.weights,
            remat=self.remat,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeginFlags:
    """The first weights. By default they are drawn."""

    init_from: Path | None = None
    """Folder of a run or an import: start from its weights, with its model and tokenizer."""
    init_step: int | None = None
    """Checkpoint of --init-from; by default the newest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags:
    """The text. A batch depends only on the seed and the step."""

    data: str = STDLIB
    """stdlib: Python files installed here; 'files:GLOB': text, JSON, tables; hf:NAME[,CONFIG]."""
    data_megabytes: float = STDLIB_MEGABYTES
    """Read at most this much text; 0 reads all of it, the default for files and hf."""
    tokenizer: Path | None = None
    """A tokenizer.json; by default one is trained on a sample of the text."""
    end_of_text: str = ""
    """Token of --tokenizer that ends a document; by default one with a usual name, as </s>."""
    skip_unreadable: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Skip files that are no text, and count them, instead of refusing."""
    cache_dir: Path = dataclasses.field(default_factory=default_cache_dir)
    """Cache for tokenizers, tokens, downloads and compiled programs."""
    batch_size: int = BATCHES["tiny"][0]
    """Windows of text per update; 32 by default for models other than tiny."""
    accumulate: int = 1
    """Compute each batch in this many parts, to save memory; it must divide --batch-size."""
    seq_len: int = BATCHES["tiny"][1]
    """Tokens predicted per window; 256 by default for models other than tiny."""
    seed: int = 0
    """Seed of the initial weights, the order of the text, the subspaces and the sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Logging, evaluation, checkpoints and the sample."""

    log_every: int = 10
    """Steps between log lines, if the output is not a terminal."""
    log: tuple[TrackerName, ...] = ()
    """Also log to these services, whose packages must be installed."""
    diagnostics: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the subspaces at refreshes, at the cost of one more gradient and update each."""
    eval_every: int = 0
    """Steps between evaluations on held-out text; 0 to evaluate only at the start and the end."""
    eval_batches: int = 16
    """Batches per evaluation; 0 for all held-out text."""
    save_every: int = 100
    """Steps between checkpoints, which are written in the background."""
    save_minutes: float = 0.0
    """Also save when the last checkpoint is this many minutes old; 0 to save by steps alone."""
    keep: int = 2
    """Checkpoints that are kept: the newest."""
    keep_best: bool = False
    """Also keep the checkpoint of the best evaluation; each evaluation then has one."""
    skip_nonfinite: int = 3
    """Updates in a row whose loss or gradient may be nan or infinite: they are skipped."""
    skip_spikes: float = 0.0
    """Also skip updates whose loss is this many times the median of the last 100; 0: none."""
    profile: str = ""
    """FIRST:LAST, such as 10:12: trace these updates into RUN_DIR/profile with JAX's profiler."""
    sample_tokens: int = 64
    """Tokens to generate at the end; 0 for no sample."""
    sample_prompt: str = "def "
    """Prompt for the sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train a language model from scratch or from the weights of another, or resume a run.

    The defaults below are for tiny, grassjump, stdlib and 300 steps. Ctrl-C, SIGTERM and SIGHUP
    save a checkpoint and exit with status 0; a second signal exits immediately.
    """

    run_dir: Path
    """Folder for metrics, checkpoints and results. Must not contain another run."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Resume the run in --run-dir exactly where it stopped. Its settings are restored."""
    config: Path | None = None
    """Take all settings from the config.json of another run; other flags override them."""
    preset: PresetName | None = None
    """The settings of a paper, which other flags override: see the command presets."""
    processes: ProcessFlags = dataclasses.field(default_factory=ProcessFlags)
    start: BeginFlags = BeginFlags()
    model: ModelFlags = ModelFlags()
    data: DataFlags = DataFlags()
    optimizer: OptimizerFlags = dataclasses.field(default_factory=OptimizerFlags)
    schedule: ScheduleFlags = dataclasses.field(default_factory=ScheduleFlags)
    report: ReportFlags = ReportFlags()
    devices: DeviceFlags = dataclasses.field(default_factory=DeviceFlags)


def defaults(parsed: Pretrain) -> Pretrain:
    """Return the defaults that follow from the model, optimizer, corpus and steps of `parsed`."""
    model, steps = parsed.model.model, parsed.schedule.steps
    if model not in CONFIGS:
        raise UserError(f"--model {model} is unknown: choose one of {', '.join(CONFIGS)}.")
    batch_size, seq_len = BATCHES.get(model, OTHER_BATCH)
    config = Pretrain(
        run_dir=parsed.run_dir,
        model=ModelFlags(model=model, vocab_size=CONFIGS[model].vocab_size),
        data=DataFlags(
            data=parsed.data.data,
            data_megabytes=STDLIB_MEGABYTES if parsed.data.data == STDLIB else 0.0,
            batch_size=batch_size,
            seq_len=seq_len,
        ),
        optimizer=default_optimizer(parsed.optimizer.optimizer, model),
        schedule=ScheduleFlags(steps=steps, warmup=default_warmup(steps)),
    )
    return config if parsed.preset is None else with_preset(config, parsed)


def with_preset(config: Pretrain, parsed: Pretrain) -> Pretrain:
    """Return a configuration with what the preset of `parsed` says, for the size, the optimizer and
    the steps of `parsed`.
    """
    preset, steps = PRESETS[str(parsed.preset)], parsed.schedule.steps
    optimizer = dataclasses.replace(config.optimizer, optimizer=parsed.optimizer.optimizer)
    return dataclasses.replace(
        config,
        preset=parsed.preset,
        model=dataclasses.replace(config.model, model=parsed.model.model, precision=PRECISION),
        data=dataclasses.replace(config.data, batch_size=preset.batch_size, accumulate=preset.accumulate),
        optimizer=preset.optimizer(optimizer, parsed.optimizer.rule),
        schedule=dataclasses.replace(config.schedule, steps=steps, warmup=default_warmup(steps)),
    )
