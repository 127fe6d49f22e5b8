"""The folder of a run.

config.json    every setting, the versions of the packages, the fingerprint of the tokens
model.json, tokenizer.json    the model, except its weights (`train.storage.model`)
metrics.jsonl  a row per update and a row per evaluation
diagnostics.jsonl    measurements of the subspaces, if they were asked for
checkpoints/   the last `--keep` states, and the best if asked for
profile/       a trace of some updates, if one was asked for
loss.png, sample.txt, report.html, summary.json    the results; summary.json is written last and
               marks the end
tensorboard/, wandb/    what trackers wrote (`train.watch.services`)
"""

import contextlib
import importlib.metadata
import json
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.config.finetune import LANGUAGE, Finetune
from train.config.run import UserError
from train.config.stored import CONFIG, FINGERPRINT, Run, Stored, content_of, read_stored, settings_of
from train.storage.checkpoint import steps_in
from train.storage.metrics import Metrics, Row, completed, plot, read_rows, updates_of
from train.storage.model import MODEL, TOKENIZER, StoredModel
from train.system.devices import machine
from train.system.files import as_json, locked, write_whole
from train.system.processes import everywhere, on_first

TRACKERS = ".trackers"  # what trackers have got (`train.watch.trackers`)
SHARED_AFTER = 90.0  # seconds; network file systems cache the content of a folder for up to a minute
PACKAGES = ("flax", "grain", "grass_optax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "tokenizers")


class RunFolder:
    """The folder of a run, shared by all processes.

    `is_finished`, `refuse_used`, `fingerprint`, `opened` and `write_results` are to be called in
    every process: process 0 does the work, and all get its result or raise its error. The other
    methods work in the calling process alone and start no backend of JAX.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.metrics = path / "metrics.jsonl"
        self.diagnostics = path / "diagnostics.jsonl"
        self.figures = path / "figures"
        self.checkpoints = path / "checkpoints"
        self.loss_curve = path / "loss.png"
        self.report = path / "report.html"
        self.sample = path / "sample.txt"
        self.profile = path / "profile"
        self.summary = path / "summary.json"
        self._token = path / ".token"  # by which processes recognise that they share the folder

    def is_finished(self, config: Run) -> bool:
        """Whether the run in this folder is complete, and is not to have more steps."""
        return on_first(lambda: self.summary.exists() and not self._is_extended(config))

    def refuse_used(self) -> None:
        """Refuse a folder that contains a run."""
        on_first(self._refuse_used)

    def fingerprint(self) -> str:
        """Return the fingerprint of the tokens of the stored run."""
        return on_first(lambda: self.stored().fingerprint)

    @contextlib.contextmanager
    def opened(self, config: Run, fingerprint: str, model: StoredModel) -> Iterator[None]:
        """Lock the folder, store configuration and model, and check that all processes see the
        folder.
        """
        with contextlib.ExitStack() as held:
            token = on_first(lambda: self._open(config, fingerprint, model, held))
            everywhere(lambda: self.wait_for_token(token))
            yield

    def write_results(self, metrics: Metrics, sample: str | None, summary: dict[str, Any]) -> None:
        """Write the results of a finished run."""

        def write() -> None:
            plot(metrics, self.loss_curve)
            if sample is None:
                self.sample.unlink(missing_ok=True)  # of an end that the run had before it got more steps
            else:
                write_whole(self.sample, sample + "\n")
            write_whole(self.summary, as_json(summary))

        on_first(write)

    def results(self) -> dict[str, Any] | None:
        """Read summary.json; None if the run is not finished."""
        if not self.summary.exists():
            return None
        try:
            return dict(json.loads(self.summary.read_text()))
        except (ValueError, RecursionError, TypeError) as error:
            raise UserError(f"{self.summary} is damaged ({error}): remove it, then resume the run.") from error

    def stored(self) -> Stored:
        """Read config.json."""
        return read_stored(self.path)

    def store(self, config: Run, fingerprint: str) -> None:
        """Write config.json."""
        content = content_of(config) | {FINGERPRINT: fingerprint, "versions": versions(), "machine": machine()}
        write_whole(self.config, as_json(content))

    def leave_token(self) -> str:
        """Write a random token into the folder and return it."""
        token = secrets.token_hex()
        write_whole(self._token, token)
        return token

    def wait_for_token(self, token: str, patience: float = SHARED_AFTER) -> None:
        """Wait until this process can read the token that another one wrote into the folder."""
        deadline = time.monotonic() + patience
        while not (self._token.exists() and self._token.read_text() == token):
            if time.monotonic() > deadline:
                raise UserError(
                    f"--run-dir {self.path} is not the folder that process 0 writes to: use a folder on a file system "
                    "that all processes share."
                )
            time.sleep(min(1, patience / 10))

    def _open(self, config: Run, fingerprint: str, model: StoredModel, held: contextlib.ExitStack) -> str:
        refusal = f"another process is training in --run-dir {self.path}: wait until it has finished."
        held.enter_context(locked(self.path, refusal))
        if config.resume:
            self._report_new_versions()
            if is_extended := self._is_extended(config):
                self.summary.unlink(missing_ok=True)  # first: without it, a kill here costs nothing
            if is_extended or settings_of(config) != settings_of(self.stored().config):
                self.store(config, fingerprint)  # as the next time it resumes with these
        else:
            self._refuse_used()
            self._remove_remains()
            model.write(self.path)
            self.store(config, fingerprint)
        return self.leave_token()

    def _is_extended(self, config: Run) -> bool:
        return config.schedule != self.stored().config.schedule

    def _refuse_used(self) -> None:
        """Refuse a folder with an update, except those that were skipped, or a checkpoint after it;
        a run that has neither loses nothing if it starts again. Refuse what is no run, too.
        """
        if other := self._other():
            raise UserError(
                f"--run-dir {self.path} contains {other}, but no config.json of a run: choose another folder, so that "
                "nothing is overwritten."
            )
        if updates_of(read_rows(self.metrics)) or any(self._checkpoints()):
            raise UserError(
                f"--run-dir {self.path} already contains a run: add --resume to continue it, or choose another folder."
            )

    def _other(self) -> str | None:
        """What the folder has of an import, of another program, or of a run without settings."""
        try:
            content = json.loads(self.config.read_text())
        except (ValueError, RecursionError, IsADirectoryError):
            return "a damaged config.json"
        except (FileNotFoundError, NotADirectoryError):
            # A kill may have left model.json, or this and tokenizer.json.
            is_begun = (self.path / MODEL).exists()
            own = (self.checkpoints, self.metrics, self.summary, *([] if is_begun else [self.path / TOKENIZER]))
            return next((path.name for path in own if path.exists()), None)
        return None if isinstance(content, dict) and FINGERPRINT in content else "a config.json of something else"

    def _checkpoints(self) -> list[int]:
        return steps_in(self.checkpoints) if self.checkpoints.is_dir() else []

    def _remove_remains(self) -> None:
        """Remove what a run without an update has left: its evaluation is of other weights, if the
        seed is another. Its configuration comes last, as it says whose the rest is.
        """
        if not self.config.exists():
            return
        for path in (self.metrics, self.diagnostics):
            path.unlink(missing_ok=True)
        states = [self.checkpoints / str(step) for step in self._checkpoints()]
        for path in (self.path / TRACKERS, self.path / "tensorboard", *states):
            if path.exists():
                shutil.rmtree(path)
        self.config.unlink()

    def _report_new_versions(self) -> None:
        """Report packages that have changed since the run began, as results may then differ."""
        before, now = self.stored().versions, versions()
        changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
        if changed:
            print(f"note: resuming with other versions is not bit-exact: {', '.join(changed)}")


def rows_of_any_version(folder: RunFolder, run: Run) -> list[Row]:
    """Return the rows of the metrics; those of older versions get the seconds and tokens that they
    lack, unless only the data know these.
    """
    rows = read_rows(folder.metrics)
    if isinstance(run, Finetune) and run.data.task != LANGUAGE:
        return rows
    is_old = any("tokens" not in row for row in rows)
    return list(completed(rows, run.data.batch_size * run.data.seq_len)) if is_old else rows


def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that the numbers of a run depend on, and of
    this code: its commit, where it is a checkout.
    """
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages, "commit": _commit()}


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return done.stdout.strip()
