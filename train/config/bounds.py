"""Refuses values of single flags that no run can have."""

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from train.config.run import SMALLEST_VOCABULARY, TrackerName, UserError
from train.config.stored import Run

PERCENTAGE = re.compile(r"\d+(\.\d+)?%", re.ASCII)

TRACKERS: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}  # packages

AT_LEAST: Mapping[str, Mapping[str, float]] = {
    "model": {"vocab_size": SMALLEST_VOCABULARY},
    "data": {"batch_size": 1, "accumulate": 1, "seq_len": 1, "seed": 0, "data_megabytes": 0},
    "optimizer": {"rank": 1, "update_proj_gap": 1, "scale": 0, "weight_decay": 0, "clip": 0} | {"keep_every": 1},
    "schedule": {"steps": 1, "epochs": 0, "final_lr_fraction": 0},
    "report": {"log_every": 1, "eval_every": 0, "eval_batches": 0, "save_every": 1, "sample_tokens": 0, "patience": 0}
    | dict.fromkeys(("save_minutes", "skip_nonfinite", "skip_spikes"), 0)
    | {"keep": 1},
}


def check_bounds(config: Run) -> None:
    """Refuse values that are out of bounds."""
    for group, bounds in AT_LEAST.items():
        for name, least in bounds.items():
            value = getattr(getattr(config, group, None), name, None)
            if value is not None and not value >= least:  # written this way round so that nan is refused too
                refuse(name, value, f"must be at least {least}")
    if 0 < config.report.skip_spikes <= 1:
        refuse("skip_spikes", config.report.skip_spikes, "must be above 1: it is a factor over the usual loss")
    if config.data.batch_size % config.data.accumulate:
        refuse("accumulate", config.data.accumulate, f"must divide --batch-size {config.data.batch_size}")
    _check_profile(config.report.profile)
    if config.data.seed >= 2**32:
        refuse("seed", config.data.seed, "must be below 2^32")
    for name in ("warmup", "cooldown"):
        _check_part(name, getattr(config.schedule, name))
    _check_trackers(config.report.log)


def _check_part(name: str, part: int | str) -> None:
    if isinstance(part, int):
        if part < 0:
            refuse(name, part, "must be at least 0")
    elif not PERCENTAGE.fullmatch(part):
        refuse(name, part or "''", "must be a number of updates, or a percentage of them, such as 10%")
    elif float(part.removesuffix("%")) >= 100:
        refuse(name, part, "must be below 100%")


def _check_profile(span: str) -> None:
    first, _, last = span.partition(":")
    if span and not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        refuse("profile", span, "must be FIRST:LAST, two updates from 1 on, for example 10:12")


def _check_trackers(names: tuple[TrackerName, ...]) -> None:
    if len(set(names)) < len(names):
        refuse("log", " ".join(names), "contains a name twice: give each once")
    for name in names:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            refuse("log", name, f"needs a package that is missing: pip install {TRACKERS[name]}, or leave {name} out")


def check_step(step: int | None) -> None:
    """Refuse a step that no checkpoint has."""
    if step is not None and step < 0:
        refuse("step", step, "must be at least 0")


def refuse(name: str, value: Any, reason: str) -> None:
    """Raise the error for a setting that has a wrong value."""
    flag = ("no_" + name if value is False else name).replace("_", "-")
    words = [flag] if isinstance(value, bool) else [flag, *str(value).split()]
    raise UserError(f"--{' '.join(words)} {reason}.")
