"""Several processes as one run: how they start, agree and end. Built on `jax.distributed`.

Every process runs the same program on its own devices. Only process 0 reads and writes the run's
metadata (everything but arrays). Its results, and any user error in any process, are broadcast, so
all processes take the same branches and exit together.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.config.machine_flags import ProcessFlags
from train.config.run import UserError
from train.config.stored import Settings, differences
from train.system.files import full_disk
from train.system.signals import Stopped, StopSignals

Result = TypeVar("Result")


@contextlib.contextmanager
def joined(config: ProcessFlags, how_to_resume: str) -> Iterator[None]:
    """Be one of the processes of a run while entered.

    An exception that is not raised in every process terminates this one immediately: a normal exit
    would make JAX wait for peers that are blocked in a collective. The peers abort when its
    heartbeat stops.

    Args:
      config: Flags of the processes.
      how_to_resume: Ends the message that is printed if this process dies.
    """
    if not config.distributed:
        _refuse_alone(config)
        yield
        return
    _initialize(config)
    last_words = LastWords(
        f"process {jax.process_index()} of {jax.process_count()} died: it failed, was killed, or lost contact with "
        f"another process that did. The messages above and the logs of the other processes say which. {how_to_resume}"
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
    for name in ("coordinator_address", "num_processes", "process_id"):
        if getattr(config, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} only applies to a multi-process run: add --distributed, or leave it out."
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
            f"--distributed could not connect to the other processes ({str(error).rstrip('.')}): start all of them "
            "under SLURM, Open MPI, Kubernetes or on a TPU pod, or pass each --coordinator-address HOST:PORT of "
            "process 0 (a free port), --num-processes, and its own --process-id from 0."
        ) from error


class LastWords:
    """Prints a message if this process dies without calling `withdraw`, even by SIGKILL or by JAX's
    abort, neither of which Python can intercept.

    A shell reads from a pipe to this process, and prints the message if the pipe closes first.
    """

    def __init__(self, message: str) -> None:
        script = 'read -r _ || printf "%s\\n" "$0" >&2'
        # In its own process group, so that Ctrl-C on a terminal does not kill it.
        self._shell = subprocess.Popen(["sh", "-c", script, message], stdin=subprocess.PIPE, process_group=0)

    def withdraw(self) -> None:
        """Cancel the message: the process is exiting normally."""
        self._shell.communicate(b"\n")


class SharedStopSignals(StopSignals):
    """While entered, SIGTERM, SIGINT or SIGHUP in one process makes `poll` raise `Stopped` in all
    processes at the same step.

    JAX's preemption service handles SIGTERM: it stops the processes at the step after the last one
    that any of them has polled. SIGINT and SIGHUP are forwarded to it; a second signal, other than
    SIGHUP, exits the process.
    """

    numbers = (signal.SIGINT, signal.SIGHUP)
    answer = "all processes stop at the next safe point; a second signal exits this one at once"

    def __init__(self) -> None:
        super().__init__()
        self._polled = 0

    def _acknowledge(self, number: int) -> None:
        super()._acknowledge(number)
        os.kill(os.getpid(), signal.SIGTERM)

    def poll(self, step: int = 0) -> None:
        """Raise `Stopped` if the processes have agreed to stop at this step.

        To be called before each step, with the same step in all processes. A resumed run also
        queries the steps before its first one, because a signal received earlier may name one of
        them as the stopping step.
        """
        steps = range(self._polled + 1, step + 1) or (step,)
        self._polled = step
        if any(multihost_utils.reached_preemption_sync_point(t) for t in steps):
            raise Stopped("stopped by a signal to one of the processes")


def is_first() -> bool:
    """Whether this is process 0, which writes the run's metadata."""
    return jax.process_index() == 0


def on_first(work: Callable[[], Result]) -> Result:
    """Run `work` in process 0, and return its result, which must be JSON-serialisable, in all."""
    if jax.process_count() == 1:
        return work()
    value = everywhere(lambda: work() if is_first() else None)
    first: Result = json.loads(gathered(json.dumps(value))[0])
    return first


def everywhere(work: Callable[[], Result]) -> Result:
    """Run `work` in all processes; a `UserError` or a full disk in one of them is raised in all."""
    if jax.process_count() == 1:
        return work()
    results, message = list[Result](), ""
    try:
        results.append(work())
    except UserError as error:
        message = str(error)
    except OSError as error:
        if (reason := full_disk(error)) is None:
            raise
        message = reason
    for process, message_there in enumerate(gathered(message)):
        if message_there:
            raise UserError(f"process {process} of {jax.process_count()}: {message_there}")
    return results[0]


def refuse_different(settings: Settings) -> None:
    """Refuse processes that were started with different settings."""
    if jax.process_count() == 1:
        return
    first, *others = map(json.loads, gathered(json.dumps(settings)))
    for process, theirs in enumerate(others, 1):
        for flag, value, expected in differences(theirs, first):
            raise UserError(
                f"process {process} was given {flag} {value}, but process 0 {flag} {expected}: "
                "give all processes the same flags except --process-id."
            )


def gathered(text: str) -> list[str]:
    """All-gather: return the `text` of every process, in process order."""
    encoded: Any = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(encoded.size))
    padded = np.pad(encoded, (0, int(sizes.max()) - encoded.size))
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]
