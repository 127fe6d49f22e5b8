"""Refuses settings that cannot run."""

from models.config import CONFIGS, TransformerConfig
from models.encoder_config import EncoderConfig
from train.config.axes import wrong_axes
from train.config.bounds import check_bounds, refuse
from train.config.finetune import (
    CLASSIFICATION,
    LANGUAGE,
    REGRESSION,
    ExampleFlags,
    Finetune,
    MetricName,
    ScoreFlags,
    TaskName,
)
from train.config.optimizer_flags import BASES, BLOCKS, OptimizerFlags
from train.config.optimizers import OPTIMIZERS
from train.config.run import (
    FILES,
    HUB,
    INT8,
    STDLIB,
    Pretrain,
    WeightsName,
)
from train.config.schedule import WSD, ScheduleFlags
from train.config.stored import Run
from train.data.tokenizer import read_tokenizer, size_of

NARROWEST_BLOCK = 32  # columns: `bases.blocks.WIDTH`, without importing JAX; a test keeps them in sync

METRICS: dict[TaskName, tuple[MetricName, ...]] = {  # of evaluations, by task
    LANGUAGE: ("eval_loss",),
    CLASSIFICATION: ("eval_loss", "accuracy", "f1", "matthews"),
    REGRESSION: ("eval_loss", "pearson", "spearman"),
}


def check(config: Pretrain) -> None:
    """Refuse settings of `pretrain` that cannot run, before anything is written."""
    check_bounds(config)
    if config.model.model not in CONFIGS:
        refuse("model", config.model.model, f"is unknown: choose one of {', '.join(CONFIGS)}")
    check_text(config.data.data)
    if config.start.init_step is not None and config.start.init_from is None:
        refuse("init_step", config.start.init_step, "has no effect without --init-from: leave it out")
    check_schedule(config.schedule)
    _check_tokenizer(config)
    if OPTIMIZERS[config.optimizer.optimizer].only_finetunes:
        refuse("optimizer", config.optimizer.optimizer, "only fine-tunes: choose another, or start from a model")
    _check_optimizer(config.optimizer, config.model.model, CONFIGS[config.model.model])
    _check_diagnostics(config)
    _check_backward(config, config.model.remat, CONFIGS[config.model.model].num_layers)
    _check_weights(config.model.weights, config.optimizer, config.devices.mesh)


def check_finetuning(config: Finetune, network: TransformerConfig) -> None:
    """Refuse settings of `finetune` that cannot run with a model."""
    check_bounds(config)
    if (config.data.task == LANGUAGE) == isinstance(network, EncoderConfig):
        kinds = "a decoder, such as LLaMA" if config.data.task == LANGUAGE else "an encoder, such as BERT"
        refuse("task", config.data.task, f"needs {kinds}, and {config.start.init_from} is none")
    if isinstance(network, EncoderConfig) and config.data.seq_len > network.max_positions:
        refuse("seq_len", config.data.seq_len, f"must be at most {network.max_positions}, the positions of the model")
    if len(config.data.text_fields) not in (1, 2):
        refuse("text_fields", " ".join(config.data.text_fields), "must name one field or two")
    for name in ("data", "held_out"):
        source = getattr(config.data, name)
        if source.removeprefix(FILES) in ("", source) and (name == "data" or source):
            refuse(name, repr(source), "must be files:GLOB, for example 'files:examples/*.jsonl'")
    if config.report.metric not in METRICS[config.data.task]:
        refuse("metric", config.report.metric, f"must be one of {', '.join(METRICS[config.data.task])} for this task")
    _refuse_idle(config)
    if config.report.patience and not config.report.eval_every:
        refuse("patience", config.report.patience, "needs evaluations during training: add --eval-every")
    if config.schedule.epochs <= 0:
        refuse("epochs", config.schedule.epochs, "must be positive")
    _check_optimizer(config.optimizer, str(config.start.init_from), network)
    _check_diagnostics(config)
    _check_backward(config, config.start.remat, network.num_layers)
    if config.optimizer.update_in_backward and config.data.task != LANGUAGE:
        refuse("update_in_backward", True, "is for language models: leave it out")
    _check_weights(config.start.weights, config.optimizer, config.devices.mesh)
    if config.start.weights == INT8 and config.data.task != LANGUAGE:
        refuse("weights", INT8, "is for language models: leave it out")
    if config.start.weights == INT8 and config.start.freeze:
        refuse("weights", INT8, "is for parameters that are all trained: leave it out, or --freeze")
    if config.optimizer.update_in_backward and config.start.freeze:
        refuse("update_in_backward", True, "updates all parameters: leave it out, or --freeze")


def _check_backward(config: Run, remat: str, layers: int) -> None:
    """Refuse an update inside the backward pass where there is none, and its flags without it."""
    flags = config.optimizer
    if flags.clip_by != OptimizerFlags.clip_by and not flags.clip:
        refuse("clip_by", flags.clip_by, "has no effect on --clip 0: leave it out, or give a norm as --clip")
    if not flags.update_in_backward:
        for name in ("clip_by", "keep_every"):
            if (value := getattr(flags, name)) != getattr(OptimizerFlags, name):
                refuse(name, value, f"has no effect without --update-in-backward: {_way_out(config, name)}")
        return
    if not OPTIMIZERS[name := flags.optimizer].updates_apart:
        refuse("update_in_backward", True, f"needs an optimizer that updates layers apart, and {name} does not")
    if (parts := config.data.accumulate) > 1:
        way_out = "leave one of them out; larger micro-batches fit"
        refuse("accumulate", parts, f"adds gradients up, and --update-in-backward keeps none: {way_out}")
    if config.report.skip_spikes:
        refuse("skip_spikes", config.report.skip_spikes, "needs the update after the backward pass: leave it out")
    if remat != "none":
        refuse("remat", remat, "has no effect on --update-in-backward, which computes blocks again: leave it out")
    if layers % flags.keep_every or 1 < flags.keep_every == layers:
        useful = ", ".join(str(n) for n in (1, *range(2, layers)) if layers % n == 0)
        refuse("keep_every", flags.keep_every, f"must divide the {layers} layers, and be less: give one of {useful}")


def _way_out(config: Run, name: str) -> str:
    """Say what to do about a flag of the update inside the backward pass, where there is none."""
    if not config.resume:
        return "add it, or leave this out"
    if name == "keep_every":
        return "add it, or --keep-every 1"
    return "the run was started with both, so leave out --no-update-in-backward"


def _check_weights(weights: WeightsName, optimizer: OptimizerFlags, mesh: str) -> None:
    """Refuse weights of 8 bits where they would not be trained, or not be sharded."""
    if weights != INT8:
        return
    if OPTIMIZERS[optimizer.optimizer].only_finetunes:
        refuse("weights", INT8, f"rounds every update of a kernel, and those of {optimizer.optimizer} have few numbers")
    if mesh:
        refuse("weights", INT8, f"has blocks that --mesh {mesh} would cut: leave one of them out")


def _check_diagnostics(config: Run) -> None:
    """Refuse measurements of subspaces where there are none to look at."""
    if not config.report.diagnostics:
        return
    row = OPTIMIZERS[config.optimizer.optimizer]
    if not row.shows_subspaces:
        kind = "one whose subspaces are stored or fixed" if row.splits else "one with subspaces"
        refuse("diagnostics", "", f"needs another optimizer than {row.name}, {kind}")
    if not config.optimizer.store_basis:
        refuse("diagnostics", "", "needs the bases in the state: leave out --no-store-basis")
    if config.optimizer.update_in_backward:
        refuse("diagnostics", "", "needs the gradient of the whole model: leave out --update-in-backward")


def _refuse_idle(config: Finetune) -> None:
    """Refuse flags that would change nothing."""
    of_encoders = {"text_fields": config.data.text_fields, "label_field": config.data.label_field}
    for name, value in of_encoders.items():
        if config.data.task == LANGUAGE and value != getattr(ExampleFlags, name):
            shown = value if isinstance(value, str) else " ".join(value)
            refuse(name, shown, "has no effect on a language model: leave it out")
    if config.data.task != LANGUAGE and config.report.sample_prompt:
        refuse("sample_prompt", config.report.sample_prompt, "has no effect on an encoder: leave it out")
    if config.data.task != LANGUAGE and config.start.logits != "auto":
        refuse("logits", config.start.logits, "has no effect on an encoder, whose logits are few: leave it out")
    if config.report.metric != ScoreFlags.metric and not (config.report.patience or config.report.keep_best):
        refuse("metric", config.report.metric, "has no effect without --patience or --keep-best: add one")


def check_schedule(flags: ScheduleFlags) -> None:
    """Refuse a warm-up, or a line of wsd, that does not fit the run."""
    if flags.warmup_updates >= flags.steps:
        refuse("warmup", flags.warmup, f"must be below --steps {flags.steps}, or the peak is never reached")
    after_peak = flags.steps - max(flags.warmup_updates, 1)
    if flags.schedule == WSD and not 1 <= flags.cooldown_updates <= after_peak:
        refuse("cooldown", flags.cooldown, f"must be at least 1 and at most {after_peak} updates, those after the peak")


def check_profile(span: str, steps: int) -> None:
    """Refuse a profile of updates after the last one."""
    if span and int(span.partition(":")[0]) > steps:
        refuse("profile", span, f"has no effect on a run of {steps} updates: leave it out")


def check_text(data: str) -> None:
    """Refuse a text that is neither the standard library, nor files, nor a data set."""
    if data != STDLIB and all(data.removeprefix(kind) in ("", data) for kind in (FILES, HUB)):
        refuse("data", data, "must be stdlib, hf:NAME or files:GLOB, for example 'files:texts/**/*.txt'")


def _check_tokenizer(config: Pretrain) -> None:
    flags = config.data
    if flags.tokenizer is None:
        if flags.end_of_text:
            refuse("end_of_text", flags.end_of_text, "has no effect without --tokenizer: leave it out")
    elif not config.resume and (least := size_of(read_tokenizer(flags.tokenizer))) > config.model.vocab_size:
        refuse("vocab_size", config.model.vocab_size, f"must be at least {least}, the tokens of {flags.tokenizer}")


def _check_optimizer(flags: OptimizerFlags, model: str, network: TransformerConfig) -> None:
    hidden, row = network.hidden_size, OPTIMIZERS[flags.optimizer]
    for name in ("learning_rate", "adam_learning_rate"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            refuse(name, value, "must be positive")
    if "rank" in row.takes and flags.rank >= hidden:
        refuse("rank", flags.rank, f"must be below the hidden size of {model}, which is {hidden}")
    if "basis" in row.takes:
        _check_basis(flags, hidden)
    for mistake in wrong_axes(flags, network):
        refuse(*mistake)


def _check_basis(flags: OptimizerFlags, hidden: int) -> None:
    name, colon, number = flags.basis.partition(":")
    if name not in BASES or (colon and name != BLOCKS) or (colon and not number.isdecimal()):
        refuse("basis", flags.basis, f"must be one of {', '.join(BASES)}, or {BLOCKS}:NUMBER")
    if flags.basis == BLOCKS and flags.rank < 2 * NARROWEST_BLOCK:
        refuse("basis", BLOCKS, f"makes a single block at --rank {flags.rank}, a dense basis: give {BLOCKS}:NUMBER")
    if colon and (int(number) == 0 or hidden % int(number) or flags.rank % int(number)):
        refuse(
            "basis", flags.basis, f"must have a number that divides the hidden size {hidden} and --rank {flags.rank}"
        )
