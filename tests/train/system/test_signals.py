"""What a process answers to signals: before there is anything to save, and from then on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.small_run import ROOT, Launcher
from tests.train.soak import answers_signals
from tests.util import long_but
from train.system.processes import SharedStopSignals
from train.system.signals import AT_ONCE, NOTHING, SIGNALS, StopSignals

COMPILES = "Finished jaxpr to MLIR module conversion jit(train_step)"  # what JAX logs just before


def after(script: str) -> tuple[int, str, set[str]]:
    """Run a script that sends itself signals; return its status, its output and the answers."""
    begin = (
        "import os, signal, time\n"
        "from train.system.signals import *\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests may run under nohup
        "def send(number):\n"
        "    os.kill(os.getpid(), number)\n"
        "    time.sleep(0.2)\n"  # for the other thread
    )
    command = [sys.executable, "-c", begin + script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, set(done.stderr.split("\n")) - {""}


@pytest.mark.parametrize("first", SIGNALS)
def test_sighup_is_never_the_second_signal(first: signal.Signals) -> None:
    status, output, answers = after(
        "with StopSignals() as signals:\n"
        f"    send({int(first)})\n"
        "    send(signal.SIGHUP)\n"
        "    send(signal.SIGHUP)\n"
        "    print(signals.received.name, flush=True)\n"
        "    send(signal.SIGINT)\n"
    )
    assert (status, output) == (128 + signal.SIGINT, f"{first.name}\n")
    assert answers == {f"{first.name}: {StopSignals.answer}", f"SIGINT: {AT_ONCE}"}


def test_a_signal_after_a_run_says_that_it_was_saved() -> None:
    status, output, answers = after(
        "with exiting_on_signals():\n"
        "    with StopSignals():\n"
        "        print('trains', flush=True)\n"
        "    send(signal.SIGTERM)\n"
        "print('never here')\n"
    )
    assert (status, output, answers) == (128 + signal.SIGTERM, "trains\n", {f"SIGTERM: {AT_ONCE}"})


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGHUP])
def test_one_of_several_processes_forwards_its_signal_as_sigterm(first: signal.Signals) -> None:
    """Here Python has SIGTERM, which JAX handles in a run."""
    status, output, answers = after(
        "from train.system.processes import SharedStopSignals\n"
        "with exiting_on_signals():\n"
        "    signal.signal(signal.SIGTERM, lambda *_: print('forwarded', flush=True))\n"
        "    with SharedStopSignals():\n"
        f"        send({int(first)})\n"
        "        print('still here', flush=True)\n"
        "        send(signal.SIGINT)\n"
    )
    assert (status, output) == (128 + signal.SIGINT, "forwarded\nstill here\n")
    assert answers == {f"{first.name}: {SharedStopSignals.answer}", f"SIGINT: {AT_ONCE}"}


@pytest.mark.parametrize("number", long_but([signal.SIGINT], SIGNALS))
def test_a_signal_while_a_run_starts_ends_it(number: signal.Signals, launcher: Launcher, tmp_path: Path) -> None:
    process = launcher.start(launcher.arguments(tmp_path / "run"))
    while not answers_signals(process):
        time.sleep(1e-3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert (process.returncode, output) == (128 + number, f"\n{number.name}: {NOTHING}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_run_compiles_ends_it(number: signal.Signals, launcher: Launcher, tmp_path: Path) -> None:
    variables = {"JAX_LOG_COMPILES": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    process = launcher.start(launcher.arguments(tmp_path / "run"), variables=variables)
    assert process.stdout is not None
    assert any(COMPILES in line for line in process.stdout)
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert (process.returncode, output) == (128 + number, f"\n{number.name}: {NOTHING}\n")
