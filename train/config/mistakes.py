"""What can be wrong with any command line: words of other trainers, empty paths, texts that are not
UTF-8, numbers that are not finite, flags that would change nothing.

These need to know what was given, and so are checked where a command line is read. A stored
configuration may hold values without effect: it gives every setting.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from train.config.axes import described, idle
from train.config.bounds import refuse
from train.config.finetune import LANGUAGE, ExampleFlags, Finetune
from train.config.optimizer_flags import OptimizerFlags
from train.config.run import FILES, DataFlags, ReportFlags, UserError
from train.config.schedule import CurveFlags

# What other trainers call a flag, and what it is here: the first that the command has.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "--lr": ("learning_rate",),
    "--sweep-lr": ("learning_rate",),
    "--sweep-scale": ("scale",),
    "--sweep-basis": ("basis",),
    "--min-lr": ("final_lr_fraction",),
    "--lr-scheduler": ("schedule",),
    "--lr-scheduler-type": ("schedule",),
    "--warmup-steps": ("warmup",),
    "--warmup-ratio": ("warmup",),
    "--warmup-fraction": ("warmup",),
    "--wd": ("weight_decay",),
    "--max-grad-norm": ("clip",),
    "--grad-clip": ("clip",),
    "--optim": ("optimizer", "optimizers"),
    "--optimizer": ("optimizers",),
    "--batch": ("batch_size",),
    "--bs": ("batch_size",),
    "--block-size": ("seq_len",),
    "--context-length": ("seq_len",),
    "--max-length": ("seq_len",),
    "--epochs": ("steps",),
    "--max-steps": ("steps",),
    "--num-steps": ("steps",),
    "--iterations": ("steps",),
    "--dataset": ("data",),
    "--out-dir": ("run_dir", "out"),
    "--output-dir": ("run_dir", "out"),
    "--eval-interval": ("eval_every",),
    "--eval-steps": ("eval_every",),
    "--save-steps": ("save_every",),
    "--save-interval": ("save_every",),
    "--log-interval": ("log_every",),
    "--logging-steps": ("log_every",),
    "--gradient-checkpointing": ("remat",),
}

# Python's own writing of a byte that is no UTF-8, in a word of the command line or a path.
_HALVES = re.compile("[\ud800-\udfff]")


def check_words(words: Sequence[str], command: type) -> None:
    """Refuse the flags of other trainers, and paths that are empty.

    Args:
      words: The command line after the name of the command.
      command: Its configuration.
    """
    kinds = dict(flags_of(command))
    for word, after in itertools.pairwise([*words, "--"]):
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--"):
            continue
        if name not in kinds:
            _refuse_swept(flag, name, kinds)
            if meant := [ours for ours in ELSEWHERE.get(_spelled(flag), ()) if ours in kinds]:
                raise UserError(f"{flag} is not a flag of this command: its name here is --{_spelled(meant[0])}.")
        elif Path in (kinds[name], *get_args(kinds[name])) and not (value if equals else after):
            raise UserError(f"--{_spelled(name)} is empty: give a path.")


def _refuse_swept(flag: str, name: str, kinds: Mapping[str, Any]) -> None:
    """Refuse a flag of the runs, where a sweep sets it."""
    ours = [other for other in (name, *ELSEWHERE.get(_spelled(flag), ())) if other in dict(flags_of(OptimizerFlags))]
    if "sweep" in kinds and name != "optimizer" and ours and ours[0] not in kinds:
        raise UserError(f"{flag} is not a flag of this command: give --sweep {ours[0]}=VALUE, or several values.")


def check_values(config: Any) -> None:
    """Refuse infinity and NaN for every number, and texts and paths that are not UTF-8."""
    for name, value in values_of(config):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, float) and not math.isfinite(part):
                refuse(name, part, "must be a finite number")
            if isinstance(part, str | Path) and _HALVES.search(str(part)):
                refuse(name, ascii(str(part)), "is not UTF-8: give a text or a path in this encoding")


def check_effect(config: Any, default: Any) -> None:
    """Refuse flags that would change nothing beside the others.

    Args:
      config: What the command line says.
      default: What it would be without these flags.
    """
    for group in ("optimizer", "schedule"):
        flags, without = getattr(config, group, None), getattr(default, group, None)
        if not isinstance(flags, OptimizerFlags | CurveFlags):
            continue
        reasons = flags.idle if isinstance(flags, CurveFlags) else reasons_of(idle(flags), described(flags))
        for name, reason in reasons.items():
            if getattr(flags, name) != getattr(without, name):
                refuse(name, getattr(flags, name), f"has no effect {reason}: leave it out")
    for group, name, reason in _idle_beside_others(config):
        if (value := getattr(getattr(config, group), name)) != getattr(getattr(default, group), name):
            refuse(name, value, f"has no effect {reason}: leave it out")


def _idle_beside_others(config: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (group, flag, why it changes nothing) where another flag is the reason."""
    data, report = getattr(config, "data", None), getattr(config, "report", None)
    if isinstance(data, DataFlags) and not data.data.startswith(FILES):
        yield "data", "skip_unreadable", f"on --data {data.data}"
    if isinstance(report, ReportFlags):
        steps, first = config.schedule.steps, report.profile.partition(":")[0]
        if steps is not None and first.isdecimal() and int(first) > steps:
            yield "report", "profile", f"on --steps {steps}"
        if not report.sample_tokens:
            yield "report", "sample_prompt", "on --sample-tokens 0"
    if isinstance(data, ExampleFlags) and data.task != LANGUAGE and config.report.sample_tokens:
        yield "report", "sample_tokens", "on an encoder"
    if isinstance(config, Finetune) and config.data.task == LANGUAGE and config.optimizer.optimizer == "lora":
        for name in ("adam_learning_rate", "decay"):  # of a new head, which only an encoder has
            yield "optimizer", name, "on lora of a language model"


def reasons_of(names: Sequence[str], optimizer: str) -> dict[str, str]:
    """Return why flags of an optimizer change nothing, as it ends "has no effect"."""
    return {name: "without --weight-decay" if name == "decay" else f"on {optimizer}" for name in names}


def flags_of(command: type) -> Iterator[tuple[str, Any]]:
    """Yield the name and the type of every flag of a command, without its groups."""
    for name, kind in get_type_hints(command).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from flags_of(kind)
        else:
            yield name, kind


def values_of(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of every flag of a configuration, without its groups."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from values_of(value)
        else:
            yield field.name, value


def _spelled(name: str) -> str:
    return name.replace("_", "-")
