"""Which flags may differ from those of a stored run that resumes."""

from collections.abc import Sequence

from train.config.run import UserError
from train.config.stored import Run, Settings, differences, settings_of

# Flags that may change between runs that are compared, and when a run resumes. None changes a
# result, except that the mesh and the form of the update change how sums are rounded, and that the
# sample is another: it comes last, and may be what the memory has no room for.
FREE_TO_CHANGE = (
    *("--cache-dir", "--mesh", "--update-in-backward", "--keep-every"),
    *("--log", "--diagnostics", "--log-every", "--save-every", "--save-minutes", "--keep", "--profile"),
    *("--sample-tokens", "--sample-prompt"),
)
# Flags that may change when a run resumes: how sums are rounded, as another device may need it, and
# what is skipped, as a run that diverged may need it.
FREE_TO_RESUME = (
    *FREE_TO_CHANGE,
    *("--attention", "--logits", "--remat", "--accumulate"),
    *("--skip-nonfinite", "--skip-spikes"),
)
PLACES = ("data", "held_out")  # of texts


def refuse_conflicts(config: Run, stored: Run, is_user: bool = False) -> None:
    """Refuse flags that contradict the run that is being resumed.

    If a user resumes it, it may have more steps than before, or more epochs if it counts these, and
    its text may be elsewhere: the fingerprint of the text is compared later.
    """
    settings, before = settings_of(config), settings_of(stored)
    length = "epochs" if stored.schedule.steps is None else "steps"
    more, fewer = settings["schedule"][length], before["schedule"][length]
    if is_user and more is not None and more > fewer:
        settings["schedule"][length] = fewer
    if is_user:
        settings["data"] |= {name: before["data"][name] for name in PLACES if name in before["data"]}
    if changes := changed_flags(settings, before, "the run", FREE_TO_RESUME):
        raise UserError(
            f"--resume continues the run in {config.run_dir} with its own settings, but was given "
            f"{changes}: leave these flags out, or start a new run in another --run-dir."
        )


def changed_flags(settings: Settings, stored: Settings, owner: str, free: Sequence[str] = FREE_TO_CHANGE) -> str:
    """List the flags that differ from the stored ones and are not free to change."""
    return ", ".join(
        f"{flag} {value} ({owner} has {before})"
        for flag, value, before in differences(settings, stored)
        if flag not in free
    )
