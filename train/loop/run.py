"""A run around the training loop: one process or several, signals, the files of its folder."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from train.config.run import Diverged, UserError
from train.config.stored import Run, settings_of
from train.loop.advice import for_memory
from train.loop.diagnosis import Diagnosis
from train.loop.given import Data, Tools
from train.loop.profile import Profile
from train.loop.progress import Display
from train.loop.stopping import EarlyStop
from train.loop.trainer import Trainer
from train.program.program import Program
from train.program.sharding import DATA, FSDP
from train.program.step import TrainState
from train.storage.checkpoint import Checkpoints
from train.storage.folder import RunFolder
from train.storage.metrics import Metrics
from train.storage.quantities import loss_unit
from train.system.devices import devices_named, reporting_exhaustion
from train.system.files import disk_error
from train.system.processes import SharedStopSignals, is_first, refuse_different
from train.system.signals import Stopped, StopSignals
from train.watch.trackers import Trackers


def refuse_different_processes(config: Run) -> None:
    """Refuse processes of one run with different settings."""
    settings = settings_of(config)
    settings["data"].pop("cache_dir", None)  # each machine may have its own
    refuse_different({"": {"resume": config.resume}, **settings})


def is_finished(config: Run, folder: RunFolder) -> bool:
    """Whether there is nothing left to do, which is reported; refuse a folder that is in use."""
    if config.resume and folder.is_finished(config):
        if is_first():
            print(f"the run in {folder.path} is finished: see {folder.summary}")
        return True
    if not config.resume:
        folder.refuse_used()
    return False


def train(
    config: Run,
    program: Program,
    data: Data,
    folder: RunFolder,
    *,
    title: str,
    command: str,
    steps: int,
    start: Callable[[], TrainState] | None = None,
    early_stop: EarlyStop | None = None,
) -> None:
    """Train to the end, or to a signal, after which the state is saved.

    Args:
      config: The settings.
      program: The programs.
      data: The text.
      folder: The folder, opened.
      title: What is trained, for the first line.
      command: The command that resumes the run.
      steps: Number of updates.
      start: Returns the first state; by default it is drawn.
      early_stop: When to stop before the last step.
    """
    signals = SharedStopSignals() if jax.process_count() > 1 else StopSignals()
    with (
        Display(steps, config.report.log_every, quiet=not is_first()) as display,
        reporting_exhaustion("the run", lambda: for_memory(config, program.task.network, _shards(program))),
        _reporting_full_disk(folder),
        Checkpoints(folder.checkpoints, config.report.keep) as checkpoints,
        Trackers(config.report.log if is_first() else (), folder.path, settings_of(config), display.say) as trackers,
        Metrics(
            folder.metrics if is_first() else None,
            checkpoints.latest or 0,
            tokens=program.task.tokens,
            loss_unit=loss_unit(config),
            watch=trackers.add,
        ) as metrics,
        Profile(config.report.profile, checkpoints.latest or 0, folder.profile, display.say) as profile,
        _diagnosing(config, program, folder, checkpoints.latest or 0) as diagnosis,
    ):
        parameters = sum(x.size for x in jax.tree.leaves(program.weights))
        display.say(
            f"{title}: {parameters:,} parameters, {program.optimizer_bytes:,} bytes of optimizer state, "
            f"attention by {program.task.network.attention}, on {devices_named()}"
        )
        tools = Tools(
            folder=folder,
            display=display,
            metrics=metrics,
            checkpoints=checkpoints,
            profile=profile,
            diagnosis=diagnosis,
            poll=signals.poll,
        )
        trainer = Trainer(program, data, tools, config.report, steps=steps, start=start, early_stop=early_stop)
        with signals:  # until the state is saved, too: a second signal may come meanwhile
            try:
                trainer.train()
                trackers.flush()
            except Diverged:
                trackers.flush()
                raise
            except Stopped as signal:
                trainer.save()
                checkpoints.finish()
                display.say(
                    f"{signal}: saved after step {trainer.step}; to resume: "
                    f"python -m train {command} --run-dir {folder.path} --resume"
                )


def _diagnosing(
    config: Run, program: Program, folder: RunFolder, step: int
) -> contextlib.AbstractContextManager[Diagnosis | None]:
    if not config.report.diagnostics:
        return contextlib.nullcontext()
    path = folder.diagnostics if is_first() else None
    return Diagnosis(program.diagnose, config.optimizer.update_proj_gap, path, step)


def _shards(program: Program) -> int:
    """The devices among which a batch is divided."""
    return program.mesh.shape[DATA] * program.mesh.shape[FSDP]


@contextlib.contextmanager
def _reporting_full_disk(folder: RunFolder) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if (reason := disk_error(error)) is None:
            raise
        raise UserError(
            f"--run-dir {folder.path} cannot be written ({reason}); its checkpoints are whole: free space there, then "
            "run the same command again with --resume."
        ) from error
