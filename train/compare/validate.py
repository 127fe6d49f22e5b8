"""Refuses comparisons that cannot run, and flags that contradict the comparison in the folder."""

from pathlib import Path

from train.compare.config import CompareFinetune, Comparison
from train.compare.grid import cells, repeated, run_of
from train.config.optimizers import OPTIMIZERS
from train.config.resumed import changed_flags
from train.config.run import Pretrain, UserError
from train.config.stored import Settings
from train.config.validate import check, check_finetuning, refuse
from train.storage.model import read_model

# How to pass the lists of a comparison.
EXAMPLES = {
    "optimizers": "--optimizers adamw grassjump",
    "sweep_lr": "--sweep-lr 1e-3 1e-2",
    "sweep_scale": "--sweep-scale 0.25 1",
    "sweep_basis": "--sweep-basis haar blocks",
    "seeds": "--seeds 0 1 2",
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
    for rate in sweep.sweep_lr or ():
        if not rate > 0:
            refuse("sweep_lr", rate, "must be positive")
    for scale in sweep.sweep_scale or ():
        if not scale >= 0:
            refuse("sweep_scale", scale, "must be at least 0")
    if sweep.sweep_basis and not any("basis" in OPTIMIZERS[name].takes for name in sweep.optimizers):
        refuse("sweep_basis", " ".join(sweep.sweep_basis), "has no effect without grassjump in --optimizers")
    if sweep.sweep_scale and not any(OPTIMIZERS[name].has_scale for name in sweep.optimizers):
        refuse("sweep_scale", " ".join(map(str, sweep.sweep_scale)), "has no effect on these --optimizers")
    if sweep.seeds and config.data.seed:
        refuse("seed", config.data.seed, "has no effect beside --seeds: leave it out")
    _check_runs(config)
    if config.metric not in config.metrics:
        refuse("metric", config.metric, f"must be one of {', '.join(config.metrics)} for this task")


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
    if settings.keys() != stored.keys():
        command = "compare-finetune" if "start" in stored else "compare"
        raise UserError(f"--run-dir {run_dir} contains a comparison of `{command}`: choose another folder.")
    if changes := changed_flags(settings, stored, "it"):
        raise UserError(
            f"the comparison in --run-dir {run_dir} was started with different flags: now {changes}. All its runs "
            "share these flags, so use the same ones, or choose another --run-dir."
        )
