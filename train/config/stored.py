"""The settings of a run as JSON: what config.json holds, and how it is read back.

A setting is stored under the name of its group: `{"data": {"seed": 0, ...}, ...}`.
"""

import dataclasses
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from train.config.finetune import Finetune
from train.config.run import PRECISIONS, Pretrain, UserError

CONFIG = "config.json"  # in the folder of a run
FINGERPRINT = "data_fingerprint"  # in it, of the text of a run
Settings = dict[str, dict[str, Any]]  # group -> name -> value, as JSON has it

Run = Pretrain | Finetune
COMMANDS: dict[str, type[Run]] = {"pretrain": Pretrain, "finetune": Finetune}
NOT_STORED = ("processes",)  # nor are --run-dir, --resume and --config


def groups_of(command: type[Run]) -> dict[str, type]:
    """Return the groups of settings of a command that are stored."""
    return {
        name: kind
        for name, kind in get_type_hints(command).items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and name not in NOT_STORED
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """The content of a config.json."""

    config: Run
    fingerprint: str
    versions: dict[str, str]
    is_older: bool = False  # it was trained by another schedule, which ended one update later
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)  # on which the run began


def settings_of(config: Run) -> Settings:
    """Return the stored settings of a configuration."""
    return {
        group: {name: _as_json(value) for name, value in dataclasses.asdict(getattr(config, group)).items()}
        for group in groups_of(type(config))
    }


def content_of(config: Run) -> dict[str, Any]:
    """Return the part of a config.json that repeats a run."""
    command = next(name for name, kind in COMMANDS.items() if isinstance(config, kind))
    return {"command": command, "config": settings_of(config)}


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def differences(settings: Settings, others: Settings) -> Iterator[tuple[str, Any, Any]]:
    """Yield (flag, value, other value) for each of `settings` that differs in `others`."""
    for group, values in settings.items():
        for name, value in values.items():
            other = others.get(group, {}).get(name)
            if value != other:
                yield f"--{name.replace('_', '-')}", value, other


def read_stored(run_dir: Path) -> Stored:
    """Read the config.json of the run in `run_dir`."""
    path = run_dir / CONFIG
    if not path.exists():
        raise UserError(
            f"--run-dir {run_dir} contains no run to resume: check the folder, or leave --resume out to start a run."
        )
    content = _read(path)
    return Stored(
        config=_config(content, path, run_dir),
        fingerprint=str(content.get(FINGERPRINT)),
        versions=content.get("versions", {}),
        is_older=_is_older(content["config"]),
        machine=content.get("machine", {}),
    )


def read_config(path: Path, run_dir: Path) -> Run:
    """Return the configuration in a config.json, for a run in `run_dir`."""
    return _config(_read(path), path, run_dir)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}): give the config.json of a run. A run whose own is damaged resumes with a "
            "copy of it, or gives its weights to another by --init-from."
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(f'{path} has no object "config": give the config.json of a run.')
    return content


def _config(content: dict[str, Any], path: Path, run_dir: Path) -> Run:
    """Return the configuration; settings that are missing have their defaults."""
    groups = content["config"]
    name_of_command = content.get("command", "pretrain")
    if name_of_command not in COMMANDS:
        raise UserError(f"{path} is of the command {name_of_command!r}: it must be one of {', '.join(COMMANDS)}.")
    command = COMMANDS[name_of_command]
    known = groups_of(command)
    if "model" in groups and not isinstance(groups["model"], dict):
        raise UserError(
            f"{path} was written by an older version, whose settings were not grouped: "
            "start a new run in another --run-dir, with the same flags."
        )
    for name, values in groups.items():
        if name not in known or not isinstance(values, dict):
            raise UserError(f"{path} has an unknown group of settings, {name!r}: remove it.")
    if _is_older(groups):
        groups = groups | _translated(groups)
    settings = {name: _group(known[name], name, values, path) for name, values in groups.items()}
    return command(run_dir=run_dir, **settings)


def _is_older(groups: Settings) -> bool:
    schedule = groups.get("schedule")
    return isinstance(schedule, dict) and bool({"warmup_steps", "warmup_fraction"} & schedule.keys())


def _translated(groups: Settings) -> Settings:
    """Return the settings of older versions that have other names now, or another default."""
    schedule = dict(groups["schedule"])
    if isinstance(fraction := schedule.pop("warmup_fraction", None), float | int):
        schedule["warmup"] = f"{100 * fraction:g}%"
    if (updates := schedule.pop("warmup_steps", None)) is not None:
        schedule["warmup"] = updates
    return {"schedule": schedule, "optimizer": {"decay": "all"} | groups.get("optimizer", {})}


def _group(kind: type, group: str, values: dict[str, Any], path: Path) -> Any:
    kinds = get_type_hints(kind)
    if "precision" in kinds:
        values = _renamed(values, path)
    if unknown := [f"{group}.{name}" for name in values if name not in kinds]:
        raise UserError(f"{path} has unknown settings: {', '.join(unknown)}. Remove them.")
    return kind(**{name: _value(kinds[name], value, f"{group}.{name}", path) for name, value in values.items()})


def _renamed(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return settings of older versions under their new names.

    Weights of 16 bits were rounded to the nearest then, so a run with such weights is no run of
    now.
    """
    values = dict(values)
    if isinstance(values.get("remat"), bool):
        values["remat"] = "block" if values["remat"] else "none"
    if "dtype" not in values and "param_dtype" not in values:
        return values
    products, weights = values.pop("dtype", "float32"), values.pop("param_dtype", "float32")
    same = [name for name, types in PRECISIONS.items() if types == (products, weights) and weights == "float32"]
    if not same:
        raise UserError(
            f"{path} was written by an older version, with dtype {products} and param_dtype {weights}, which no "
            f"--precision repeats exactly: replace both by precision, one of {', '.join(PRECISIONS)}."
        )
    return {"precision": same[0], **values}


def _value(kind: Any, value: Any, name: str, path: Path) -> Any:
    """Return the value of a setting of type `kind`, from its JSON."""
    if Path in (kind, *get_args(kind)) and isinstance(value, str):
        return Path(value)
    if get_origin(kind) is tuple and isinstance(value, list) and all(_fits(get_args(kind)[0], x) for x in value):
        return tuple(value)
    if not _fits(kind, value):
        raise UserError(f"{path} has {name} = {value!r}: it must be {_described(kind)}.")
    return value


def _fits(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(option, value) for option in get_args(kind))
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return type(value) is kind


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_described, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list, each item {_described(get_args(kind)[0])}"
    return {float: "a number", int: "an integer", bool: "true or false", types.NoneType: "null"}.get(kind, "a string")
