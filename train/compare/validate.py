"""Refuses comparisons that cannot run, and flags that contradict the comparison in the folder."""

from pathlib import Path

from train.compare.config import Compare, cells, run_of
from train.config.optimizers import OPTIMIZERS
from train.config.run import UserError
from train.config.stored import Settings
from train.config.validate import changed_flags, check, refuse

# How to pass the lists of a comparison.
EXAMPLES = {
    "optimizers": "--optimizers adamw grassjump",
    "sweep_lr": "--sweep-lr 1e-3 1e-2",
    "sweep_scale": "--sweep-scale 0.25 1",
    "sweep_basis": "--sweep-basis haar blocks",
}


def check_comparison(config: Compare) -> None:
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
    for cell in cells(config):
        check(run_of(config, cell))


def refuse_other_settings(run_dir: Path, settings: Settings, stored: Settings) -> None:
    """Refuse settings that contradict the comparison in the folder; its optimizers and sweeps may
    change.
    """
    if changes := changed_flags(settings, stored, "it"):
        raise UserError(
            f"the comparison in --run-dir {run_dir} was started with different flags: now {changes}. All its runs "
            "share these flags, so use the same ones, or choose another --run-dir."
        )
