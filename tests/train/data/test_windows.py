"""Batches follow from (seed, step), and a damaged cache is never used."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.train.small_run import ROOT, write_texts
from train.config.run import DataFlags, UserError
from train.data import windows as data
from train.data.corpus import documents, split
from train.data.tokenizer import END_OF_TEXT
from train.data.windows import Windows, held_out_batches, load_tokens, training_rows, training_windows

VOCABULARY = 300
TOKENS = np.arange(1000, dtype=np.uint16)  # a window shows where it begins
FLAGS = DataFlags(batch_size=3, seq_len=10, seed=5)


def changed(**flags: object) -> DataFlags:
    return dataclasses.replace(FLAGS, **flags)  # type: ignore[arg-type]


def training_batches(config: DataFlags) -> Callable[[int], np.ndarray]:
    """The batch of each step."""
    windows = training_windows(TOKENS, config)
    return lambda step: training_rows(windows, step, config.batch_size)(0, config.batch_size)


# Batches


def test_a_batch_follows_from_the_seed_and_the_step() -> None:
    steps = list(range(70))  # more than two epochs
    in_order = [training_batches(FLAGS)(step) for step in steps]
    batch = training_batches(FLAGS)
    random.Random(0).shuffle(steps)
    for step in [*steps, *steps]:
        np.testing.assert_array_equal(batch(step), in_order[step])
    assert in_order[0].shape == (3, 11)
    assert in_order[0].dtype == np.int32


def test_seeds_and_steps_give_other_batches() -> None:
    batches = [training_batches(changed(seed=seed))(step).tobytes() for seed in (0, 1, 2) for step in range(50)]
    assert len(set(batches)) == len(batches)


def test_rows_of_a_batch_are_those_of_the_whole() -> None:
    windows = training_windows(TOKENS, FLAGS)
    rows = training_rows(windows, 40, 3)
    assert windows.batch(3)[40].tobytes() == rows(0, 3).tobytes()
    assert rows(0, 3).tobytes() == rows(0, 1).tobytes() + rows(1, 3).tobytes()


def test_every_window_occurs_once_per_epoch_in_a_new_order() -> None:
    windows = (len(TOKENS) - 1) // 10
    assert windows % 3 == 0
    batch = training_batches(FLAGS)
    epochs = [
        np.concatenate([batch(epoch * windows // 3 + step) for step in range(windows // 3)]) for epoch in range(3)
    ]
    firsts = [epoch[:, 0].tolist() for epoch in epochs]
    for first in firsts:
        assert sorted(first) == list(range(0, 10 * windows, 10))
    assert firsts[0] != firsts[1] != firsts[2] != firsts[0]


def test_windows_are_contiguous_and_predict_every_token_once() -> None:
    windows = Windows(TOKENS, 7)
    rows = np.stack([windows[i] for i in range(len(windows))])
    np.testing.assert_array_equal(rows[:, 1:].ravel(), TOKENS[1 : 1 + 7 * len(windows)])
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])
    assert len(TOKENS) - 1 - 7 * len(windows) < 7


def test_held_out_batches_are_the_same_for_every_seed_and_never_repeat() -> None:
    batches = list(held_out_batches(TOKENS, FLAGS, 1000))
    assert sum(map(len, batches)) == 99
    assert len({row.tobytes() for batch in batches for row in batch}) == 99
    some = list(held_out_batches(TOKENS, changed(seed=6), 4))
    assert len(some) == 4
    for batch, same in zip(batches, some, strict=False):
        np.testing.assert_array_equal(batch, same)


def test_too_little_text_for_a_window_is_an_error() -> None:
    for make in (training_windows, lambda *arguments: held_out_batches(*arguments, 1)):
        with pytest.raises(UserError, match=r"has 10 tokens, but a window needs 11.*--seq-len"):
            make(TOKENS[:10], FLAGS)
        assert make(TOKENS[:11], FLAGS)[0].shape[-1] == 11


# The cache


@pytest.fixture
def cached(corpus: Path, tmp_path: Path) -> DataFlags:
    return changed(data=f"files:{corpus}/json/*.py", cache_dir=tmp_path / "cache")


def folder_of(cached: DataFlags, tokens: data.Tokens) -> Path:
    return cached.cache_dir / tokens.fingerprint


def test_tokens_are_the_documents_in_order(cached: DataFlags) -> None:
    tokens = load_tokens(cached, VOCABULARY)
    parts = split(documents(cached.data))
    for array, part in ((tokens.train, parts.train), (tokens.held_out, parts.held_out)):
        text = tokens.tokenizer.decode(array.tolist(), skip_special_tokens=False)
        assert text == "".join(document.text + END_OF_TEXT for document in part)
        assert array.dtype == np.uint16


def test_the_manifest_lists_every_document(cached: DataFlags) -> None:
    tokens = load_tokens(cached, VOCABULARY)
    listed = json.loads((folder_of(cached, tokens) / "manifest.json").read_text())["documents"]
    for side, part in split(documents(cached.data))._asdict().items():
        assert [tuple(entry.values()) for entry in listed[side]] == [
            (document.name, document.bytes, document.sha256) for document in part
        ]


def test_tokens_are_made_once_for_each_corpus_and_vocabulary(cached: DataFlags) -> None:
    said: list[str] = []
    first = load_tokens(cached, VOCABULARY, say=said.append)
    again = load_tokens(cached, VOCABULARY, say=said.append)
    assert len(said) == 1
    assert first.fingerprint == again.fingerprint
    other = load_tokens(cached, VOCABULARY + 1, say=said.append)
    assert len(said) == 2
    assert other.fingerprint != first.fingerprint


def test_a_changed_corpus_has_another_fingerprint(cached: DataFlags, tmp_path: Path) -> None:
    source = write_texts(tmp_path, a="some text " * 9, b="other text " * 99)
    flags = dataclasses.replace(cached, data=source)
    before = load_tokens(flags, VOCABULARY).fingerprint
    write_texts(tmp_path, b="changed text " * 99)
    assert load_tokens(flags, VOCABULARY).fingerprint != before
    assert load_tokens(flags, VOCABULARY, before).fingerprint == before  # from the cache
    shutil.rmtree(flags.cache_dir / before)
    with pytest.raises(UserError, match="no longer the text of this run"):
        load_tokens(flags, VOCABULARY, before)


def test_cached_tokens_need_no_corpus(cached: DataFlags) -> None:
    first = load_tokens(cached, VOCABULARY)
    gone = dataclasses.replace(cached, data="files:/nonexistent/*")
    again = load_tokens(gone, VOCABULARY, first.fingerprint)
    np.testing.assert_array_equal(first.train, again.train)


@pytest.mark.parametrize("name", ["train.bin", "held_out.bin", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_cache_is_rebuilt(cached: DataFlags, name: str, damage: str) -> None:
    tokens = load_tokens(cached, VOCABULARY)
    path = folder_of(cached, tokens) / name
    before = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        half = len(before) // 2
        flipped = bytes([before[half] ^ 0x80]) + before[half + 1 :] if damage == "flip" else b""
        path.write_bytes(before[:half] + flipped)
    load_tokens(cached, VOCABULARY, tokens.fingerprint)
    assert path.read_bytes() == before


def test_simultaneous_runs_make_the_tokens_once(cached: DataFlags) -> None:
    said: list[str] = []
    results: list[data.Tokens] = []

    def load() -> None:
        results.append(load_tokens(cached, VOCABULARY, say=said.append))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1
    for tokens in results:
        np.testing.assert_array_equal(tokens.train, results[0].train)


def test_remains_of_a_killed_preparation_are_not_used(cached: DataFlags) -> None:
    script = f"""
import pathlib, time
from train.config import run as config
from train.data import windows as data
data._sha256 = lambda path: time.sleep(100)  # the tokens are written, the manifest is not
cache = pathlib.Path({str(cached.cache_dir)!r})
data.load_tokens(config.DataFlags(data={cached.data!r}, cache_dir=cache), {VOCABULARY})
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    while not list(cached.cache_dir.glob(f"*{data.UNFINISHED}/held_out.bin")):
        assert process.poll() is None
        time.sleep(1e-3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(cached.cache_dir.glob(f"*{data.UNFINISHED}"))
    said: list[str] = []
    tokens = load_tokens(cached, VOCABULARY, say=said.append)
    assert len(said) == 1
    assert {path.name for path in cached.cache_dir.iterdir()} == {".lock", tokens.fingerprint}
