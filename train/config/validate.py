"""What is refused before anything is written: what cannot run, and what contradicts a run."""

import math
from pathlib import Path
from typing import Any

from models import CONFIGS
from train.compare.config import Compare, cells, run_of
from train.config.optimizers import BASELINES, SCALES, WITHOUT_RANK, WITHOUT_SCALE
from train.config.run import (
    FILES,
    SMALLEST_VOCABULARY,
    STDLIB,
    Pretrain,
    UserError,
    flags,
)

# What may differ when a run goes on: none of it changes a number of the result, but a mesh how its
# sums are rounded.
FREE_TO_CHANGE = ("cache_dir", "log_every", "save_every", "mesh")

# How the lists of a comparison are given.
EXAMPLES = {
    "optimizers": "--optimizers adamw grassjump",
    "sweep_lr": "--sweep-lr 1e-3 1e-2",
    "sweep_scale": "--sweep-scale 0.25 1",
}

AT_LEAST = {
    "vocab_size": SMALLEST_VOCABULARY,
    "batch_size": 1,
    "seq_len": 1,
    "seed": 0,
    "data_megabytes": 0,
    "rank": 1,
    "update_proj_gap": 1,
    "scale": 0,
    "weight_decay": 0,
    "clip": 0,
    "steps": 1,
    "warmup_steps": 0,
    "final_lr_fraction": 0,
    "log_every": 1,
    "eval_every": 0,
    "eval_batches": 1,
    "save_every": 1,
    "sample_tokens": 0,
}


def refuse_conflicts(given: Pretrain, stored: Pretrain) -> None:
    """Refuse flags that contradict the run that is being resumed."""
    if changed := _changes(flags(given), flags(stored), "the run"):
        raise UserError(
            f"--resume goes on with the run in {given.run_dir} as it was started, but was given "
            f"{changed}: leave these flags out, or start a new run in another --run-dir."
        )


def refuse_other_flags(run_dir: Path, now: dict[str, Any], then: dict[str, Any]) -> None:
    """Refuse flags that contradict the comparison in the folder; its optimizers and sweeps may
    change.
    """
    if changed := _changes(now, then, "it"):
        raise UserError(
            f"the comparison in --run-dir {run_dir} was started with other flags than {changed}: all its runs share "
            "them, so give the same, or choose another --run-dir."
        )


def _changes(now: dict[str, Any], then: dict[str, Any], owner: str) -> str:
    return ", ".join(
        f"--{name.replace('_', '-')} {now[name]} ({owner} has {then.get(name)})"
        for name in now
        if now[name] != then.get(name) and name not in FREE_TO_CHANGE
    )


def check_comparison(config: Compare) -> None:
    """Refuse what cannot be compared, and runs that cannot run."""
    sweep = config.compare
    for name in ("optimizers", "sweep_lr", "sweep_scale"):
        values = getattr(sweep, name)
        if values is not None and not values:
            _refuse(name, "", f"is empty: name one at least, as in {EXAMPLES[name]}")
        if values and len(set(values)) < len(values):
            _refuse(name, " ".join(map(str, values)), "names one twice: each is run once")
    for rate in sweep.sweep_lr or ():
        if not 0 < rate < math.inf:
            _refuse("sweep_lr", rate, "must be positive and finite")
    for scale in sweep.sweep_scale or ():
        if not 0 <= scale < math.inf:
            _refuse("sweep_scale", scale, "must be at least 0 and finite")
    for cell in cells(config):
        check(run_of(config, cell))


def check(config: Pretrain) -> None:
    """Refuse settings that cannot run, before anything is written."""
    settings = flags(config)
    for name, least in AT_LEAST.items():
        if not settings[name] >= least:  # so that nan is refused too
            _refuse(name, settings[name], f"must be at least {least}")
    for name in ("learning_rate", "adam_learning_rate"):
        if settings[name] is not None and not settings[name] > 0:
            _refuse(name, settings[name], "must be positive")
    if config.data.seed >= 2**32:
        _refuse("seed", config.data.seed, "must be below 2^32")
    if not (config.data.data == STDLIB or config.data.data.removeprefix(FILES) not in ("", config.data.data)):
        _refuse(
            "data",
            config.data.data,
            "is no corpus: give stdlib, or files:GLOB, as in 'files:texts/**/*.txt'",
        )
    if config.schedule.warmup_steps >= config.schedule.steps:
        needed = f"must be below --steps {config.schedule.steps}: the peak has to be reached"
        _refuse("warmup_steps", config.schedule.warmup_steps, needed)
    name, scale = config.optimizer.optimizer, config.optimizer.scale
    if name in WITHOUT_SCALE and scale != SCALES[name]:
        _refuse("scale", scale, f"means nothing to {name}, which has no such factor: leave it out")
    for flag in ("mu_dtype", "nu_dtype"):
        if name in BASELINES and settings[flag] != "float32":
            _refuse(flag, settings[flag], f"is for the methods of grass_optax, and {name} is Optax's: leave it out")
    hidden = CONFIGS[config.model.model].hidden_size
    if name not in WITHOUT_RANK and config.optimizer.rank >= hidden:
        needed = f"must be below the hidden size of {config.model.model}, which is {hidden}"
        _refuse("rank", config.optimizer.rank, needed)


def _refuse(name: str, value: object, needed: str) -> None:
    raise UserError(f"--{' '.join([name.replace('_', '-'), *str(value).split()])} {needed}.")
