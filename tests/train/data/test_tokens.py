"""A text is prepared once, and neither a damaged cache nor a text that changes is ever used."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import preparation as benchmark
from tests.train.small_run import ROOT, write_texts
from train.config.run import DataFlags, UserError
from train.data import cache
from train.data.cache import CHUNK, UNFINISHED, TokenFile, Tokens, Writer
from train.data.notes import note_path
from train.data.tokenizer import END_OF_TEXT, train_tokenizer
from train.data.tokens import load_tokens

VOCABULARY = 300


@pytest.fixture
def cached(corpus: Path, tmp_path: Path) -> DataFlags:
    return DataFlags(data=f"files:{corpus}/json/*.py", data_megabytes=0.0, cache_dir=tmp_path / "cache")


def texts_of(tokens: Tokens) -> list[list[str]]:
    sides = (tokens.tokenizer.decode(side[:].tolist(), skip_special_tokens=False) for side in tokens[3:])
    return [text.removesuffix(END_OF_TEXT).split(END_OF_TEXT) for text in sides]


def test_tokens_are_the_documents_in_order_of_reading(cached: DataFlags) -> None:
    tokens = load_tokens(cached, VOCABULARY)
    training, held_out = texts_of(tokens)
    texts = [path.read_text() for path in sorted(Path(cached.data.removeprefix("files:")).parent.glob("*.py"))]
    order = [next(i for i, text in enumerate(texts) if text.startswith(part)) for part in training]
    assert order == sorted(set(order))
    cut = [begin + end for begin in training for end in held_out]  # one of them, if a document is cut
    assert all(text in training or text in held_out or text in cut for text in texts)
    assert sum(map(len, texts)) == sum(map(len, training + held_out))
    assert tokens.train[:3].dtype == np.uint16


def test_tokens_are_made_once_for_each_text_and_tokenizer(cached: DataFlags, tmp_path: Path) -> None:
    said: list[str] = []
    first = load_tokens(cached, VOCABULARY, say=said.append)
    assert any("tokenizing" in line for line in said)
    said.clear()
    assert load_tokens(cached, VOCABULARY, say=said.append).fingerprint == first.fingerprint
    assert not said
    first.tokenizer.save(str(tmp_path / "tokenizer.json"))  # with that of the cache, the text is the same
    named = dataclasses.replace(cached, tokenizer=tmp_path / "tokenizer.json")
    assert load_tokens(named, 9999, say=said.append).fingerprint == first.fingerprint
    assert load_tokens(cached, VOCABULARY + 1, say=said.append).fingerprint != first.fingerprint


def test_each_environment_notes_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `stdlib` is what is installed in it; other texts are the same in all."""
    notes: list[list[Path]] = []
    for prefix in ("one", "other"):
        monkeypatch.setattr(sys, "prefix", str(tmp_path / prefix))
        flags = [DataFlags(data=data, cache_dir=tmp_path) for data in ("stdlib", "files:*.txt")]
        notes.append([note_path(of_data, VOCABULARY) for of_data in flags])
    assert notes[0][0] != notes[1][0]
    assert notes[0][1] == notes[1][1]


def test_an_unchanged_text_is_not_read_again_and_a_change_is_named(tmp_path: Path) -> None:
    flags = DataFlags(data=write_texts(tmp_path, a="some text " * 9, b="other text " * 99), cache_dir=tmp_path / "c")
    before = load_tokens(flags, VOCABULARY).fingerprint
    stat = (tmp_path / "a.txt").stat()
    (tmp_path / "a.txt").write_text("SOME TEXT " * 9)
    os.utime(tmp_path / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load_tokens(flags, VOCABULARY).fingerprint == before  # neither size nor time has changed
    said: list[str] = []
    write_texts(tmp_path, b="changed text " * 99, c="new")
    assert load_tokens(flags, VOCABULARY, say=said.append).fingerprint != before
    assert f"{tmp_path}/b.txt (changed), {tmp_path}/c.txt (new)" in said[0]
    (tmp_path / "c.txt").unlink()
    load_tokens(flags, VOCABULARY, say=said.append)
    assert any(f"{tmp_path}/c.txt (missing)" in line for line in said)


def test_a_run_accepts_its_own_text_only(tmp_path: Path) -> None:
    flags = DataFlags(data=write_texts(tmp_path, a="some text " * 99), cache_dir=tmp_path / "c")
    before = load_tokens(flags, VOCABULARY).fingerprint
    write_texts(tmp_path, a="changed text " * 99)
    assert load_tokens(flags, VOCABULARY, before).fingerprint == before  # from the cache
    gone = dataclasses.replace(flags, data="files:/nonexistent/*")
    assert load_tokens(gone, VOCABULARY, before).fingerprint == before
    shutil.rmtree(flags.cache_dir / before)
    with pytest.raises(UserError, match="no longer the text of this run"):
        load_tokens(flags, VOCABULARY, before)
    with pytest.raises(UserError, match="started by an earlier version of the trainer"):
        load_tokens(flags, VOCABULARY, "3374f9a3cf764ea8beaaba76ea0995bd")


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x80
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("name", ["train.bin", "held_out.bin", "train.crc", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_cache_is_named_and_never_used(cached: DataFlags, name: str, damage: str) -> None:
    tokens = load_tokens(cached, VOCABULARY)
    path = cached.cache_dir / tokens.fingerprint / name
    before, said = path.read_bytes(), []  # type: ignore[var-annotated]
    if damage == "flip":
        flip(path, len(before) // 2)
    else:
        (cut if damage == "cut" else Path.unlink)(path)
    again = load_tokens(cached, VOCABULARY, tokens.fingerprint, said.append)
    if damage == "flip" and name.endswith(".bin"):  # which are not read yet
        with pytest.raises(UserError, match=rf"{name} is damaged between bytes 0 and {CHUNK}: remove the folder"):
            getattr(again, name.removesuffix(".bin"))[:]
    else:
        assert str(path) in said[0]
        assert path.read_bytes() == before


def test_a_flipped_bit_is_found_where_it_is_read(tmp_path: Path) -> None:
    tokens = np.arange(CHUNK + 7, dtype=np.uint16)
    with Writer(tmp_path / "x.bin") as writer:
        for part in np.array_split(tokens, 9):
            writer.write(part)
    file = TokenFile(tmp_path / "x.bin", np.dtype(np.uint16))
    assert len(file) == len(tokens)
    np.testing.assert_array_equal(file[:], tokens)
    flip(tmp_path / "x.bin", 2 * CHUNK)
    file = TokenFile(tmp_path / "x.bin", np.dtype(np.uint16))
    np.testing.assert_array_equal(file[CHUNK // 2 - 5 : CHUNK], tokens[CHUNK // 2 - 5 : CHUNK])
    with pytest.raises(UserError, match=f"between bytes {2 * CHUNK} and {3 * CHUNK}"):
        file[CHUNK - 1 : CHUNK + 1]


def test_simultaneous_runs_make_the_tokens_once(cached: DataFlags) -> None:
    said: list[str] = []
    results: list[Tokens] = []

    def load() -> None:
        results.append(load_tokens(cached, VOCABULARY, say=said.append))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("tokenizing" in line for line in said) == 1
    for tokens in results:
        np.testing.assert_array_equal(tokens.train[:], results[0].train[:])


def test_a_killed_preparation_loses_only_its_own_work(cached: DataFlags, tmp_path: Path) -> None:
    other = dataclasses.replace(cached, data=write_texts(tmp_path, a="some text " * 99))
    saved = load_tokens(other, VOCABULARY)
    script = f"""
import pathlib, time
from train.config.run import DataFlags
from train.data import tokens
tokens.write_manifest = lambda *_: time.sleep(100)  # the tokens are written, the manifest is not
cache = pathlib.Path({str(cached.cache_dir)!r})
tokens.load_tokens(DataFlags(data={cached.data!r}, data_megabytes=0.0, cache_dir=cache), {VOCABULARY})
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    while not list(cached.cache_dir.glob(f"*{UNFINISHED}/tokenizer.json")):
        assert process.poll() is None
        time.sleep(1e-3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(cached.cache_dir.glob(f"*{UNFINISHED}"))
    tokens = load_tokens(cached, VOCABULARY)
    assert not list(cached.cache_dir.glob(f"*{UNFINISHED}"))
    assert len(tokens.train) > 0
    said: list[str] = []
    assert load_tokens(other, VOCABULARY, say=said.append).fingerprint == saved.fingerprint
    assert not said


def test_a_full_disk_is_reported_and_what_was_saved_stays(
    cached: DataFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(cached, data=write_texts(tmp_path, a="some text " * 99))
    saved = load_tokens(other, VOCABULARY)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.Writer, "_flush", fail)
    with pytest.raises(UserError, match=r"is full: the tokens of this text need about 0\.[1-9] MB, and its disk has"):
        load_tokens(cached, VOCABULARY)
    monkeypatch.undo()
    assert not list(cached.cache_dir.glob(f"*{UNFINISHED}"))
    said: list[str] = []
    load_tokens(other, VOCABULARY, saved.fingerprint, said.append)[3][:]
    assert not said
    assert len(load_tokens(cached, VOCABULARY).train) > 0


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    flags = DataFlags(data=write_texts(tmp_path, a="some text " * 99, b="other text"), cache_dir=tmp_path / "c")

    def say(line: str) -> None:
        if "tokenizing" in line:  # the first reading is over
            write_texts(tmp_path, a="other words " * 99)

    with pytest.raises(UserError, match=r"a\.txt, or the text after it, changed while it was read"):
        load_tokens(flags, VOCABULARY, say=say)
    assert not list(flags.cache_dir.glob("2-*"))


def test_files_that_are_no_text_are_refused_or_counted(tmp_path: Path) -> None:
    source = write_texts(tmp_path, a="some text " * 99, b="other text " * 9)
    (tmp_path / "c.txt").write_bytes(b"text, at first\n" * 9 + b"\xff")
    (tmp_path / "d.txt").write_bytes(b"\0\1\2")
    flags = DataFlags(data=source, data_megabytes=0.0, cache_dir=tmp_path / "c")
    with pytest.raises(UserError, match=r"c\.txt is not UTF-8 text .*, or pass --skip-unreadable"):
        load_tokens(flags, VOCABULARY)
    said: list[str] = []
    tokens = load_tokens(dataclasses.replace(flags, skip_unreadable=True), VOCABULARY, say=said.append)
    assert any(line.startswith("skipped 2 files that cannot be read, for example: ") for line in said)
    for name in "cd":
        (tmp_path / f"{name}.txt").unlink()
    assert load_tokens(flags, VOCABULARY).fingerprint == tokens.fingerprint


def test_a_tokenizer_is_that_of_a_file(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["some words, and more of them " * 9], 280)
    content = json.loads(tokenizer.to_str().replace(END_OF_TEXT, "</s>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    flags = DataFlags(
        data=write_texts(tmp_path, a="some words " * 99),
        tokenizer=tmp_path / "tokenizer.json",
        cache_dir=tmp_path / "c",
    )
    said: list[str] = []
    tokens = load_tokens(flags, 32000, say=said.append)
    assert any("documents end with </s>" in line for line in said)
    assert tokens.end_of_text == tokens.tokenizer.token_to_id("</s>")
    assert tokens.train[:][-1] == tokens.held_out[:][-1] == tokens.end_of_text
    with pytest.raises(UserError, match=r"--end-of-text <end> is no token of the tokenizer: name .* are: </s>\."):
        load_tokens(dataclasses.replace(flags, end_of_text="<end>"), 32000)


@pytest.mark.long
def test_memory_does_not_depend_on_the_size_of_the_text(tmp_path: Path) -> None:
    """A text of 200 MB, half of it one document."""
    result = benchmark.measured(tmp_path, 200)
    assert result.peak < 1e9
    assert 0.03 < result.held_out / (result.train + result.held_out) < 0.08
    assert result.seconds_again < 1
