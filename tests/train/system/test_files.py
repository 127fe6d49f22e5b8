"""Files are written atomically, and a folder is locked once."""

import errno
import fcntl
import threading
import time
from pathlib import Path

import pytest

from train.config.run import UserError
from train.system.files import locked, write_whole


def test_a_file_is_whole_or_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "x", "old")

    def fail(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("train.system.files.os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "x", "new and longer")
    assert (tmp_path / "x").read_text() == "old"


def test_a_lock_refuses_or_waits(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with locked(tmp_path):
            order.append("second")

    waiting = threading.Thread(target=wait)
    with locked(tmp_path):
        with pytest.raises(UserError, match="taken"), locked(tmp_path, "taken"):
            order.append("refused")
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_who_has_to_wait_is_told(tmp_path: Path) -> None:
    said = list[str]()

    def second() -> None:
        with locked(tmp_path, waiting=lambda: said.append("waiting")):
            said.append("mine")

    with locked(tmp_path):
        turn = threading.Thread(target=second)
        turn.start()
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == ["waiting"]
    turn.join()
    assert said == ["waiting", "mine"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    expected = r"the file system of .* has no locks \(Function not implemented\)"
    with pytest.raises(UserError, match=expected), locked(tmp_path):
        pass
