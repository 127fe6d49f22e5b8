"""A terminal or a pipe that is gone ends no program; a disk that is full does."""

import os
import pty
from pathlib import Path

import pytest

from train.system.output import outliving


def without_reader(kind: str) -> int:
    """The descriptor of a terminal or of a pipe that nobody reads any more."""
    ours, theirs = pty.openpty() if kind == "terminal" else os.pipe()
    os.close(ours)
    return theirs


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_output_without_a_reader_is_dropped(kind: str) -> None:
    descriptor = without_reader(kind)
    with pytest.raises(OSError), open(descriptor, "w", closefd=False) as plain:
        plain.write("lost")
    with open(descriptor, "w") as stream, outliving(stream) as lasting:
        print("a line\n" * 10_000, file=lasting, flush=True)


def test_what_is_read_arrives_unchanged() -> None:
    ours, theirs = os.pipe()
    with open(theirs, "w", encoding="ascii", errors="backslashreplace") as stream, outliving(stream) as lasting:
        print("\u00e9", file=lasting)
    with open(ours) as reader:
        assert reader.read() == "\\xe9\n"


def test_a_file_and_a_full_device_keep_their_errors(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        assert outliving(file) is file
    with open("/dev/full", "w") as stream:
        lasting = outliving(stream)
        print("lost", file=lasting)
        with pytest.raises(OSError, match="No space left"):
            lasting.flush()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        lasting.flush()  # the rest goes there
