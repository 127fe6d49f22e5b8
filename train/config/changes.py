"""Changes of a run by its flags: what `plan` tries, and what a run that does not fit is advised."""

import dataclasses
from typing import Any, TypeVar

from train.config.stored import Run

Flags = dict[str, Any]  # settings by name
AnyRun = TypeVar("AnyRun", bound=Run)


def changed(run: AnyRun, flags: Flags) -> AnyRun:
    """Return a run with some settings changed, by the names of their flags."""
    parts: dict[str, Any] = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    groups = {name: part for name, part in parts.items() if dataclasses.is_dataclass(type(part))}
    changes: dict[str, Any] = {
        name: dataclasses.replace(group, **{flag: value for flag, value in flags.items() if hasattr(group, flag)})
        for name, group in groups.items()
    }
    return dataclasses.replace(run, **changes)


def new(run: Run, flags: Flags) -> Flags:
    """Return those of `flags` that a run does not have."""
    return {name: value for name, value in flags.items() if changed(run, {name: value}) != run}


def words(flags: Flags) -> str:
    """Return flags as they are written on the command line."""

    def one(name: str, value: Any) -> str:
        flag = name.replace("_", "-")
        return f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}"

    return " ".join(one(name, value) for name, value in flags.items())


def kept_inputs(layers: int) -> int:
    """Return K, for which the L / K saved inputs and the K that are computed again are fewest."""
    return min((k for k in range(1, layers + 1) if layers % k == 0), key=lambda k: (k + layers // k, k))
