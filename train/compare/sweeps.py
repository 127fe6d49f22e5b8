"""What --sweep says: a setting of the runs, and the values that it takes.

The best learning rate and the best scale are chosen for each row of the table; the values of any
other setting are rows of their own.
"""

import dataclasses
import math
import types
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from train.config.bounds import refuse
from train.config.run import UserError
from train.config.schedule import ScheduleFlags, default_warmup
from train.config.stored import COMMANDS, Run, groups_of

CHOSEN = ("learning_rate", "scale")
# Groups with settings that may differ between runs. Others say what a run reports, and where it is.
GROUPS = ("optimizer", "schedule", "data", "model", "start")
# These have flags of their own, or would change the text and what is scored.
COMMON = frozenset(
    ("optimizer", "seed", "model", "init_from", "init_step", "task", "data", "data_megabytes", "held_out", "seq_len")
    + ("tokenizer", "vocab_size", "end_of_text", "skip_unreadable", "text_fields", "label_field", "cache_dir", "freeze")
)


class Sweep(NamedTuple):
    """A setting and its values.

    Attributes:
      text: What the command line says.
      group, name: The setting.
      values: What it takes, in the order of the command line.
    """

    text: str
    group: str
    name: str
    values: tuple[Any, ...]


def sweeps_of(texts: Sequence[str], command: type[Run]) -> list[Sweep]:
    """Read the sweeps of a command line.

    Raises:
      UserError: For a text that is no sweep, a setting that cannot be swept, and a value that it
        cannot take.
    """
    found = [_sweep(text, command) for text in texts]
    for number, sweep in enumerate(found):
        if sweep.name in [other.name for other in found[:number]]:
            refuse("sweep", sweep.text, f"sweeps {sweep.name} a second time: give all its values at once")
    return found


def can_be_swept(name: str) -> bool:
    """Whether a setting of some run may be swept."""
    return any(name in _kinds(command) for command in COMMANDS.values())


def with_setting(run: Run, group: str, name: str, value: Any) -> Run:
    """Return a run with another value of a setting; a warm-up that follows the steps still does."""
    flags = getattr(run, group)
    changes = {name: value}
    if name == "steps" and isinstance(flags, ScheduleFlags) and flags.warmup == default_warmup(flags.steps):
        changes["warmup"] = default_warmup(value)
    return dataclasses.replace(run, **{group: dataclasses.replace(flags, **changes)})


def _sweep(text: str, command: type[Run]) -> Sweep:
    spelled, equals, listed = text.partition("=")
    name = spelled.removeprefix("--").replace("-", "_")
    kinds = _kinds(command)
    if not equals or not listed:
        refuse("sweep", text or "''", "needs a setting and values, for example --sweep rank=16,32")
    if name not in kinds:
        word = next(word for word, kind in COMMANDS.items() if kind is command)
        refuse("sweep", text, f"is not possible: {spelled} is no setting of {word} that may differ between runs")
    group, kind = kinds[name]
    values = tuple(_value(kind, word, text) for word in listed.split(","))
    if len(set(values)) < len(values):
        refuse("sweep", text, "contains a value twice: give each once")
    return Sweep(text, group, name, values)


def _kinds(command: type[Run]) -> dict[str, tuple[str, Any]]:
    """Return the group and the type of each setting that may be swept."""
    return {
        name: (group, kind)
        for group, flags in groups_of(command).items()
        if group in GROUPS
        for name, kind in get_type_hints(flags).items()
        if name not in COMMON
    }


def _value(kind: Any, word: str, text: str) -> Any:
    """Return the value that a word stands for, of a setting of type `kind`."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for option in options:
        try:
            value = _of_kind(option, word)
        except ValueError:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            refuse("sweep", text, f"has the value {word}: it must be a finite number")
        return value
    words = [choice for option in options for choice in _words(option)]
    numbers = [name for number, name in ((int, "an integer"), (float, "a number")) if number in options]
    expected = " or ".join([*numbers, *words]) if numbers else f"one of {', '.join(words)}"
    raise UserError(f"--sweep {text} has the value {word!r}: it must be {expected}.")


def _of_kind(kind: Any, word: str) -> Any:
    if words := _words(kind):
        if word not in words:
            raise ValueError(word)
        return words[word]
    return kind(word)


def _words(kind: Any) -> dict[str, Any]:
    """Return the words of a type that has only these, and what they stand for."""
    if kind is types.NoneType:
        return {"None": None}
    values = (True, False) if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()
    return {str(value): value for value in values}
