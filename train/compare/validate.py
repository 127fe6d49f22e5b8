"""Refuses comparisons that cannot run, and flags that contradict the comparison in the folder."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from train.compare.config import Compare, CompareFinetune, Comparison, compare_defaults, compare_finetune_defaults
from train.compare.grid import cells, is_swept, repeated, run_of, seeds, unused
from train.compare.record import stored_record
from train.compare.sweeps import can_be_swept
from train.config.axes import idle
from train.config.bounds import refuse
from train.config.mistakes import reasons_of
from train.config.resumed import changed_flags
from train.config.run import Pretrain, UserError
from train.config.stored import Settings, differences
from train.config.validate import check, check_finetuning
from train.storage.model import read_model

# How to pass the lists of a comparison.
EXAMPLES = {
    "optimizers": "--optimizers adamw grassjump",
    "seeds": "--seeds 0 1 2",
    "tuning_seeds": "--tuning-seeds 100 101",
}


def check_comparison(config: Comparison) -> None:
    """Refuse lists that cannot be compared, and runs that cannot run."""
    sweep = config.compare
    for name, example in EXAMPLES.items():
        values = getattr(sweep, name)
        if values is not None and not values:
            refuse(name, "", f"is empty: give at least one value, for example {example}")
        if values and len(set(values)) < len(values):
            refuse(name, " ".join(map(str, values)), "contains a value twice: give each once")
    for sweep_without_effect in unused(config):
        refuse("sweep", sweep_without_effect.text, "has no effect on these --optimizers: leave it out")
    if sweep.tuning_seeds and not is_swept(config):
        refuse("tuning_seeds", _words(sweep.tuning_seeds), "have no effect without --sweep learning_rate=... or scale")
    if both := set(sweep.tuning_seeds or ()) & set(seeds(config)):
        refuse("tuning_seeds", _words(sweep.tuning_seeds or ()), f"has {_words(both)}, which the table would have, too")
    if sweep.seeds and config.data.seed:
        refuse("seed", config.data.seed, "has no effect beside --seeds: leave it out")
    _check_runs(config)
    if stored_record(config.run_dir) is None:  # or the flags must be those of the comparison there
        _refuse_idle(config)
    if config.metric not in config.metrics:
        refuse("metric", config.metric, f"must be one of {', '.join(config.metrics)} for this task")


def _words(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _refuse_idle(config: Comparison) -> None:
    """Refuse flags of all optimizers that change nothing for any of them."""
    default = compare_defaults(config) if isinstance(config, Compare) else compare_finetune_defaults(config)
    idle_in_all = set.intersection(*(set(idle(run_of(config, cell).optimizer)) for cell in cells(config)))
    shared = sorted(idle_in_all & {field.name for field in dataclasses.fields(config.compare)})
    for name, reason in reasons_of(shared, "these --optimizers").items():
        if (value := getattr(config.compare, name)) != getattr(default.compare, name):
            refuse(name, value, f"has no effect {reason}: leave it out")


def _check_runs(config: Comparison) -> None:
    network = None
    if isinstance(config, CompareFinetune):
        network = read_model(config.start.init_from).architecture
    first = cells(config)[0]
    for cell in [*cells(config), *repeated(config, first)]:  # of other seeds, one cell is enough
        run = run_of(config, cell)
        if isinstance(run, Pretrain):
            check(run)
        elif network is not None:
            check_finetuning(run, network)


def refuse_other_settings(run_dir: Path, settings: Settings, stored: Settings) -> None:
    """Refuse settings that contradict the comparison in the folder; its optimizers and sweeps may
    change.
    """
    if ("model" in settings) != ("model" in stored):
        command = "compare" if "model" in stored else "compare-finetune"
        raise UserError(f"--run-dir {run_dir} contains a comparison of `{command}`: choose another folder.")
    known = {group: values | stored.get(group, {}) for group, values in settings.items()}  # with flags that are newer
    if changes := changed_flags(settings, known, "it"):
        raise UserError(
            f"the comparison in --run-dir {run_dir} was started with different flags: now {changes}. All its runs "
            f"share these flags, so use the same ones{_by_sweeps(settings, known)}, or choose another --run-dir."
        )


def _by_sweeps(settings: Settings, known: Settings) -> str:
    """Return how rows of their own get the values of shared flags that may be swept."""
    changes = [(flag.removeprefix("--").replace("-", "_"), value) for flag, value, _ in differences(settings, known)]
    sweeps = [f"--sweep {name}={value}" for name, value in changes if can_be_swept(name)]
    return f", add rows with other values by {' '.join(sweeps)}" if sweeps else ""
