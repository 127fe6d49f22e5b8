"""Any change of a checkpoint shows, and nothing in it is followed or executed."""

import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

from train.storage.checksums import CHECKSUMS, damage, seal


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "40"
    (folder / "default" / "d").mkdir(parents=True)
    (folder / "default" / "d" / "abc").write_bytes(bytes(range(64)))
    (folder / "_CHECKPOINT_METADATA").write_text("{}")
    seal(folder)
    return folder


def test_a_checkpoint_is_intact_wherever_it_is(checkpoint: Path) -> None:
    assert damage(checkpoint) is None
    assert damage(shutil.copytree(checkpoint, checkpoint.with_name("41"))) is None


def test_every_flipped_bit_shows(checkpoint: Path) -> None:
    for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            is_space = path.name == CHECKSUMS and json_or_none(content) == json.loads(whole)
            assert is_space or damage(checkpoint)
        path.write_bytes(whole)
    assert damage(checkpoint) is None


def json_or_none(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def linked(folder: Path) -> None:
    path = folder / "default" / "d" / "abc"
    path.rename(folder.with_name("outside"))
    path.symlink_to(folder.with_name("outside"))


def rewritten(content: object) -> Callable[[Path], object]:
    return lambda folder: (folder / CHECKSUMS).write_text(json.dumps(content))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (emptied, "has no readable checksums.json"),
    "without checksums": (lambda x: (x / CHECKSUMS).unlink(), "has no readable checksums.json"),
    "a missing file": (lambda x: (x / "default" / "d" / "abc").unlink(), "default/d/abc is missing"),
    "a cut file": (lambda x: os.truncate(x / "default" / "d" / "abc", 63), "default/d/abc has changed"),
    "another file": (lambda x: (x / "more").touch(), "more is not one of its files"),
    "a link": (linked, "default/d/abc is no ordinary file"),
    "a pickle": (
        lambda x: (x / "default" / "d" / "abc").write_bytes(pickle.dumps(Bomb())),
        "default/d/abc has changed",
    ),
    "a pickle of checksums": (lambda x: (x / CHECKSUMS).write_bytes(pickle.dumps(Bomb())), "has no readable"),
    "a path outside": (rewritten({"files": {"../outside": {"bytes": 1, "sha256": ""}}}), "../outside is missing"),
    "checksums that are a list": (rewritten([1]), "has no readable"),
    "files that are a list": (rewritten({"files": [1]}), "has no readable"),
    "an entry that is a number": (
        rewritten({"files": {"default/d/abc": 3, "_CHECKPOINT_METADATA": None}}),
        "_CHECKPOINT_METADATA has changed",
    ),
    "deep JSON": (lambda x: (x / CHECKSUMS).write_text("[" * 10**5), "has no readable"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_described(name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    spoil, message = DAMAGES[name]
    spoil(checkpoint)
    assert message in (damage(checkpoint) or "")
    assert not Path("executed").exists()


def test_a_file_that_cannot_be_read_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: BinaryIO, digest: str) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", failing)
    assert damage(checkpoint) == "_CHECKPOINT_METADATA cannot be read: Input/output error"
