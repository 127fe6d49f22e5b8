"""A long work shows a bar on a terminal, and says now and then how far it is elsewhere."""

import itertools
import os
import pty
import re
import subprocess
import sys

import pytest

from tests.train.small_run import ROOT
from train.data import progress
from train.data.progress import Progress

TRAINING = "from train.data.tokenizer import train_tokenizer; train_tokenizer(['a text and another'] * 999, 300)"
READING = """
import time
from train.data.progress import Progress
with Progress(print, "read", {total}) as progress:
    for _ in range(4):
        progress.add(2_000_000)
        time.sleep(0.15)
print("end")
"""


def on_terminal(script: str) -> str:
    """What a script shows on a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux ends a terminal
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*m", "", shown.decode())


def elsewhere(script: str) -> str:
    """What a script writes to a pipe."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def test_without_a_terminal_there_is_a_line_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = itertools.count(0, 3), list[str]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress(said.append, "tokenized", 8_000_000) as work:
        for _ in range(4):
            work.add(2_000_000)
    assert said == ["tokenized 4 of 8 MB, 50%, 0.7 MB/s", "tokenized 8 of 8 MB, 100%, 0.7 MB/s"]


def test_on_a_terminal_there_is_a_bar_until_the_end() -> None:
    shown = on_terminal(READING.format(total=8_000_000))
    assert "read ━" in shown
    for part in ("/8.0 MB", "MB/s"):
        assert part in shown, shown
    assert shown.endswith("\x1b[2Kend\r\n"), shown  # the line of the bar is erased
    assert elsewhere(READING.format(total=8_000_000)) == "end\n"


def test_a_work_of_unknown_size_shows_how_much_is_done() -> None:
    assert "/? MB" in on_terminal(READING.format(total=0))


def test_training_a_tokenizer_shows_a_bar_on_a_terminal_only() -> None:
    assert "Compute merges" in on_terminal(TRAINING)
    assert elsewhere(TRAINING) == ""
