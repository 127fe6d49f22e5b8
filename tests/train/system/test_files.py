"""Files are written atomically, and a folder is locked once."""

import threading
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
