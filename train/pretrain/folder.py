"""The folder of a run: whether it is free, and the configuration that it keeps.

config.json    every setting, the versions of the packages, the fingerprint of the tokens
metrics.jsonl  a row per update, and a row per evaluation
checkpoints/   the last two states
loss.png, sample.txt, summary.json    the results; the summary comes last, so it marks the end
"""

import importlib.metadata
import json
import platform
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from train.config.run import Pretrain, UserError, flags, from_flags
from train.system.files import write_whole

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"
LOSS_CURVE, SAMPLE, SUMMARY = "loss.png", "sample.txt", "summary.json"
TOKEN = ".token"  # by which the processes of a run know that they share the folder
SHARED_AFTER = 90.0  # seconds; network file systems keep what they have seen of a folder for up to a minute
PACKAGES = ("flax", "grain", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "tokenizers")


class Stored(NamedTuple):
    """What config.json says."""

    config: Pretrain
    fingerprint: str
    versions: dict[str, str]


def refuse_used(run_dir: Path) -> None:
    """Refuse a folder that holds a run."""
    if any((run_dir / name).exists() for name in (CONFIG, METRICS, CHECKPOINTS)):
        raise UserError(
            f"--run-dir {run_dir} already holds a run: add --resume to go on with it, or choose another folder."
        )


def store(config: Pretrain, fingerprint: str) -> None:
    """Write config.json."""
    content = {"config": flags(config), "data_fingerprint": fingerprint, "versions": versions()}
    write_whole(config.run_dir / CONFIG, json.dumps(content, indent=1) + "\n")


def stored(run_dir: Path) -> Stored:
    """Read config.json."""
    try:
        content = json.loads((run_dir / CONFIG).read_text())
    except FileNotFoundError:
        raise UserError(
            f"--run-dir {run_dir} holds no run to resume: check the folder, or leave --resume out to start one."
        ) from None
    return Stored(from_flags(content["config"], run_dir), content["data_fingerprint"], content["versions"])


def leave_token(run_dir: Path) -> str:
    """Write down something that no other folder holds, and return it."""
    token = secrets.token_hex()
    write_whole(run_dir / TOKEN, token)
    return token


def wait_for_token(run_dir: Path, token: str, patience: float = SHARED_AFTER) -> None:
    """Wait until what another process has left is seen here too: the folder is the same."""
    deadline = time.monotonic() + patience
    while not ((path := run_dir / TOKEN).exists() and path.read_text() == token):
        if time.monotonic() > deadline:
            raise UserError(
                f"--run-dir {run_dir} is not the folder of that name that process 0 writes to: give one on a file "
                "system that all processes share."
            )
        time.sleep(min(1, patience / 10))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose numbers a run depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def is_finished(run_dir: Path) -> bool:
    """Whether the run in this folder came to its end."""
    return (run_dir / SUMMARY).exists()


def tell_new_versions(run_dir: Path) -> None:
    """Say so if packages have changed since the run began: only then is going on not bit-exact."""
    before, now = stored(run_dir).versions, versions()
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        print(f"note: this will not be bit for bit what it would have been: {', '.join(changed)}")
