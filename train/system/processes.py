"""Several processes as one run: how they meet, agree and end. The engine is `jax.distributed`.

Every process does the same with its own devices. Process 0 alone reads and writes what is the run's
and no array; what it finds, and what goes wrong in any, all are told. So they take the same turns,
and end together.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.config.run import ProcessFlags, UserError
from train.system.signals import Stopped

Result = TypeVar("Result")


@contextlib.contextmanager
def joined(config: ProcessFlags, go_on: str) -> Iterator[None]:
    """Be one of the processes of a run while entered; `go_on` says what to do if one of them dies.

    What is not raised in all of them ends this process at once: JAX would wait for the others at
      its exit, while they wait for it in the middle of a sum. They end when they miss it.
    """
    if not config.distributed:
        _refuse_alone(config)
        yield
        return
    _initialize(config)
    last_words = LastWords(
        f"process {jax.process_index()} of {jax.process_count()} did not come to its end: it failed, was killed, or "
        f"missed another process that did. What stands above and in the logs of the others says which. {go_on}"
    )
    try:
        yield
    except UserError:
        last_words.withdraw()
        raise
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    last_words.withdraw()


def _refuse_alone(config: ProcessFlags) -> None:
    given = [
        name for name in ("coordinator_address", "num_processes", "process_id") if getattr(config, name) is not None
    ]
    if given:
        raise UserError(
            f"--{given[0].replace('_', '-')} is for one process of several: add --distributed, or leave it out."
        )


def _initialize(config: ProcessFlags) -> None:
    if config.heartbeat_timeout < 1:
        raise UserError(f"--heartbeat-timeout {config.heartbeat_timeout} must be at least 1.")
    try:
        jax.distributed.initialize(
            config.coordinator_address,
            config.num_processes,
            config.process_id,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
            shutdown_timeout_seconds=config.heartbeat_timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed could not join the other processes ({str(error).rstrip('.')}): start all of them under "
            "SLURM, Open MPI, Kubernetes or on a TPU pod, or give each --coordinator-address HOST:PORT of process 0, "
            "its port free, --num-processes, and its own --process-id from 0."
        ) from error


class LastWords:
    """Says something if this process ends before it withdraws it, in whatever way: nobody can catch
    a SIGKILL, nor how JAX ends a process that misses another. A shell waits for a line, and speaks
    when there can be none.
    """

    def __init__(self, words: str) -> None:
        script = 'read -r _ || printf "%s\\n" "$0" >&2'
        # In a group of its own: Ctrl-C on a terminal is not for it.
        self._shell = subprocess.Popen(["sh", "-c", script, words], stdin=subprocess.PIPE, process_group=0)

    def withdraw(self) -> None:
        """All is well."""
        self._shell.communicate(b"\n")


class SharedStopSignals:
    """While entered, SIGTERM or SIGINT in one process makes `poll` raise `Stopped` in all, at the
    same step.

    JAX's preemption service watches SIGTERM, and has the processes stop at the step after the last
    that any of them has asked about. SIGINT is handed on to it, and a second one ends the process.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._asked = 0

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._interrupted:
            os._exit(128 + number)
        self._interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)

    def poll(self, step: int) -> None:
        """Raise `Stopped` if this is the step agreed on; to be called before each, with the same
        step in all.

        Of a run that goes on at step t, no step before t was asked about: a signal by then has it
          stop at one of them.
        """
        steps = range(self._asked + 1, step + 1) or (step,)
        self._asked = step
        if any(multihost_utils.reached_preemption_sync_point(t) for t in steps):
            raise Stopped("stopped by a signal to one of the processes")


def is_first() -> bool:
    """Whether this process writes what is the run's."""
    return jax.process_index() == 0


def on_first(work: Callable[[], Result]) -> Result:
    """Do `work` in process 0, and return in all what it returned: a value that JSON can spell."""
    if jax.process_count() == 1:
        return work()
    value = everywhere(lambda: work() if is_first() else None)
    first: Result = json.loads(told_by_all(json.dumps(value))[0])
    return first


def everywhere(work: Callable[[], Result]) -> Result:
    """Do `work` in all processes; what the user has to mend in one of them is raised in all."""
    if jax.process_count() == 1:
        return work()
    results, error = list[Result](), ""
    try:
        results.append(work())
    except UserError as caught:
        error = str(caught)
    for process, told in enumerate(told_by_all(error)):
        if told:
            raise UserError(f"process {process} of {jax.process_count()}: {told}")
    return results[0]


def refuse_different(settings: dict[str, Any]) -> None:
    """Refuse processes that were not started alike."""
    first, *others = map(json.loads, told_by_all(json.dumps(settings))) if jax.process_count() > 1 else (settings,)
    for process, theirs in enumerate(others, 1):
        for name in first:
            if theirs[name] != first[name]:
                raise UserError(
                    f"process {process} was given --{name.replace('_', '-')} {theirs[name]}, and process 0 "
                    f"{first[name]}: give all processes the same flags but --process-id."
                )


def told_by_all(text: str) -> list[str]:
    """Return what each process gives, in all."""
    letters = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(letters.size))
    padded = np.pad(letters, (0, int(sizes.max()) - letters.size))
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]
