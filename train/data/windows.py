"""Batches of tokens, as a pure function of (seed, step).

`load_tokens` turns a corpus into two arrays of tokens on disk, once. Their folder is named after a
hash of the documents and the tokenizer's settings, appears in one rename, and is verified when
opened. `training_windows` and `held_out_batches` are Grain datasets over contiguous windows of such
an array. The indices of a batch follow from the step, so the datasets have no state to save, and
each process can read just the rows of its own devices.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import tokenizers

from train.config.run import DataFlags, UserError
from train.data.corpus import Document, Split, documents, split
from train.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from train.system.files import locked, make_durable

LAYOUT = 1  # version of the folder format; to be changed with the format
UNFINISHED = ".unfinished"


class Tokens(NamedTuple):
    """A tokenized corpus; each document is followed by the end of text."""

    fingerprint: str  # identifies the documents and the tokenizer; name of the folder
    tokenizer: tokenizers.Tokenizer
    train: np.ndarray
    held_out: np.ndarray


def load_tokens(
    config: DataFlags,
    vocab_size: int,
    fingerprint: str | None = None,
    say: Callable[[str], None] = print,
) -> Tokens:
    """Return the tokens of a corpus from the cache, preparing them first if necessary.

    With a `fingerprint`, only the tokens with this fingerprint are accepted. If they are in the
    cache, the corpus is not read; if they are not and the corpus has changed, that is an error.
    """
    if fingerprint and (tokens := _open(config.cache_dir, fingerprint)):
        return tokens
    parts = split(documents(config.data, config.data_megabytes))
    current = _fingerprint(parts, vocab_size)
    if fingerprint not in (None, current):
        raise UserError(
            f"--data {config.data} is no longer the text of this run, and its tokens are not in the "
            f"cache {config.cache_dir}: restore either, or start a new run in another --run-dir."
        )
    with locked(config.cache_dir):
        if not _open(config.cache_dir, current):
            size = sum(document.bytes for part in parts for document in part) / 1e6
            counts = f"{len(parts.train)} training and {len(parts.held_out)} held-out documents"
            say(f"tokenizing {size:.1f} MB of text (cached for later runs): {counts}")
            _build(config.cache_dir, current, parts, vocab_size)
    tokens = _open(config.cache_dir, current)
    assert tokens is not None  # it has just been verified or written
    return tokens


def _fingerprint(parts: Split, vocab_size: int) -> str:
    contents = [[document.sha256 for document in part] for part in parts]
    identity = json.dumps([LAYOUT, tokenizers.__version__, vocab_size, contents])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _open(cache_dir: Path, fingerprint: str) -> Tokens | None:
    """Return the content of the folder, or None if it is missing or damaged."""
    folder = cache_dir / fingerprint
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        intact = all(_sha256(folder / name) == digest for name, digest in manifest["files"].items())
    except (FileNotFoundError, ValueError, LookupError):
        return None
    if not intact:
        return None
    arrays = [np.memmap(folder / f"{side}.bin", dtype=manifest["dtype"], mode="r") for side in Split._fields]
    return Tokens(fingerprint, load_tokenizer(folder / "tokenizer.json"), *arrays)


def _build(cache_dir: Path, fingerprint: str, parts: Split, vocab_size: int) -> None:
    """Write the folder under a temporary name, then rename it. The caller holds the lock."""
    for left_by_a_killed_run in cache_dir.glob(f"*{UNFINISHED}"):
        shutil.rmtree(left_by_a_killed_run)
    folder = cache_dir / f"{fingerprint}{UNFINISHED}"
    folder.mkdir()
    _write(folder, parts, vocab_size)
    for path in folder.iterdir():
        with open(path, "rb") as file:
            make_durable(file.fileno())
    if (final := cache_dir / fingerprint).exists():
        shutil.rmtree(final)  # damaged, or it would have been used
    folder.rename(final)


def _write(folder: Path, parts: Split, vocab_size: int) -> None:
    tokenizer = train_tokenizer((document.text for document in parts.train), vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    dtype = np.min_scalar_type(vocab_size - 1)
    for side, part in parts._asdict().items():
        with open(folder / f"{side}.bin", "wb") as file:
            for tokens in encode_documents(tokenizer, [document.text for document in part]):
                file.write(tokens.astype(dtype).tobytes())
    manifest = {
        "vocab_size": vocab_size,
        "dtype": dtype.name,
        "files": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
        "documents": {side: list(map(_entry, part)) for side, part in parts._asdict().items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _entry(document: Document) -> dict[str, str | int]:
    return {"name": document.name, "bytes": document.bytes, "sha256": document.sha256}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Windows:
    """Contiguous windows of `seq_len + 1` tokens; each token is predicted in exactly one window."""

    def __init__(self, tokens: np.ndarray, seq_len: int) -> None:
        self.tokens, self.seq_len = tokens, seq_len

    def __len__(self) -> int:
        return max(len(self.tokens) - 1, 0) // self.seq_len

    def __getitem__(self, index: int) -> np.ndarray:
        start = index * self.seq_len
        return np.asarray(self.tokens[start : start + self.seq_len + 1], dtype=np.int32)


def training_windows(tokens: np.ndarray, config: DataFlags) -> grain.MapDataset:
    """Return the endless dataset of training windows (T + 1,); update t + 1 uses windows t B to
    (t + 1) B - 1.

    Every window occurs once per epoch, in an order drawn for each epoch.
    """
    windows = grain.MapDataset.source(_windows(tokens, config, "training"))
    return windows.seed(config.seed).shuffle().repeat()


def training_rows(windows: grain.MapDataset, step: int, batch_size: int) -> Callable[[int, int], Any]:
    """Return the function that reads rows [start, stop) of the batch of update `step` + 1, where a
    row is an array or a tree of arrays.
    """

    def rows(start: int, stop: int) -> Any:
        parts = [windows[step * batch_size + row] for row in range(start, stop)]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)

    return rows


def held_out_batches(tokens: np.ndarray, config: DataFlags, count: int) -> grain.MapDataset:
    """Return up to `count` batches (B, T + 1) of held-out windows, the same for every seed; all of
    them if `count` is 0.
    """
    windows = grain.MapDataset.source(_windows(tokens, config, "held-out")).seed(0).shuffle()
    return windows.batch(config.batch_size, drop_remainder=False)[: count or None]


def _windows(tokens: np.ndarray, config: DataFlags, side: str) -> Windows:
    windows = Windows(tokens, config.seq_len)
    if not windows:
        raise UserError(
            f"the {side} text of --data {config.data} has {len(tokens)} tokens, but a window needs "
            f"{config.seq_len + 1}: use more text or a smaller --seq-len."
        )
    return windows
