"""Stopping on SIGINT, SIGTERM and SIGHUP: at once while there is nothing to save, and then at
points where the run can be saved.

Python runs a handler only between two of its own instructions, and compilation is one call that may
take minutes. So a thread reads the numbers of signals from a socket (`signal.set_wakeup_fd`): it
answers at once, whatever the main thread does. Needs no other module of the trainer, as it is
imported before everything else.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import ClassVar, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTHING = "stopped: run the same command again"
AT_ONCE = "exits at once; the newest checkpoint is what is saved"
BEGUN = threading.Event()  # set for good by the first `StopSignals`


class Stopped(Exception):
    """Raised at a safe point after a signal."""


class StopSignals:
    """While entered, a first signal makes `poll` raise `Stopped`, a second exits the process.

    SIGHUP is never the second one: a terminal that closes may send it twice, and systemd sends it
    right after SIGTERM.
    """

    numbers: ClassVar[tuple[signal.Signals, ...]] = SIGNALS
    answer: ClassVar[str] = "stops at the next safe point; a second signal exits at once"

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._acknowledged = False

    def __enter__(self) -> Self:
        BEGUN.set()
        self._held = contextlib.ExitStack()
        self._held.enter_context(_handled(self._receive, self._acknowledge, self.numbers))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number != signal.SIGHUP:  # the main thread is as fast as the other one
            exit_now(number, AT_ONCE)

    def _acknowledge(self, number: int) -> None:
        if not self._acknowledged:
            self._acknowledged = True
            say(number, self.answer)
        elif number != signal.SIGHUP:
            exit_now(number, AT_ONCE)

    def poll(self, step: int = 0) -> None:
        """Raise `Stopped` if a signal has arrived; `step` is for runs of several processes."""
        del step
        if self.received is not None:
            raise Stopped(self.received.name)


@contextlib.contextmanager
def exiting_on_signals() -> Iterator[None]:
    """While entered, and no `StopSignals` is, a signal exits the process at once."""
    with _handled(lambda *_: None, lambda number: exit_now(number, AT_ONCE if BEGUN.is_set() else NOTHING), SIGNALS):
        yield


def exit_now(number: int, message: str) -> None:
    """Exit with the status that a shell reports for a process killed by a signal."""
    say(number, message)
    os._exit(128 + number)


def say(number: int, message: str) -> None:
    """Print a line from anywhere, without the buffers and locks of `print`."""
    with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal
        os.write(2, f"\n{signal.Signals(number).name}: {message}\n".encode())


@contextlib.contextmanager
def _handled(
    receive: Callable[[int, FrameType | None], object],
    acknowledge: Callable[[int], object],
    numbers: Sequence[signal.Signals],
) -> Iterator[None]:
    """Call `receive` in the main thread, and `acknowledge` at once in another, for each signal.

    Under nohup SIGHUP is ignored, and stays so.
    """
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [number for number in numbers if number != signal.SIGHUP or not is_ignored]
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours, acknowledge, numbers), daemon=True)
    watcher.start()
    descriptor = signal.set_wakeup_fd(theirs.fileno())
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor)
        theirs.close()
        watcher.join()
        ours.close()


def _watch(ours: socket.socket, acknowledge: Callable[[int], object], numbers: Sequence[int]) -> None:
    while received := ours.recv(64):
        for number in received:
            if number in numbers:
                acknowledge(number)
