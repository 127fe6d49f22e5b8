"""Tokens on disk: a folder that appears in one rename and is checked while it is read.

train.bin, held_out.bin   the tokens, each document followed by the end of text
train.crc, held_out.crc   a CRC-32 of each `CHUNK` bytes of them
tokenizer.json            the tokenizer
manifest.json             sizes and hashes of the above, and the files of text that they came from
"""

import contextlib
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tokenizers import Tokenizer

from train.config.run import UserError
from train.data.tokenizer import load_tokenizer
from train.system.files import FULL, make_durable, write_whole

LAYOUT = 2  # version of folder and fingerprint; to be changed with either
UNFINISHED = ".unfinished"
CHUNK = 1 << 16  # bytes that are checked at once: a window of a few hundred tokens needs one or two
MANIFEST, TOKENIZER, SIDES = "manifest.json", "tokenizer.json", ("train", "held_out")


class TokenFile:
    """The tokens of one side. Each chunk is compared with its checksum when it is first read."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._path = path
        self._tokens = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
        self._checksums = np.fromfile(path.with_suffix(".crc"), "<u4")
        self._is_checked = np.zeros(len(self._checksums), bool)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return tokens [start, stop).

        Raises:
          UserError: If they are not those that were written.
        """
        start, stop, _ = part.indices(len(self))
        size = self._tokens.dtype.itemsize
        first, last = start * size // CHUNK, -(-stop * size // CHUNK)
        for chunk in first + np.flatnonzero(~self._is_checked[first:last]):
            self._check(int(chunk))
        return np.array(self._tokens[start:stop])

    def _check(self, chunk: int) -> None:
        at, step = chunk * CHUNK // self._tokens.dtype.itemsize, CHUNK // self._tokens.dtype.itemsize
        if zlib.crc32(self._tokens[at : at + step].tobytes()) != self._checksums[chunk]:
            raise UserError(
                f"{self._path} is damaged between bytes {chunk * CHUNK} and {(chunk + 1) * CHUNK}: remove the folder "
                f"{self._path.parent}, then run the command again (pretrain with --resume), which rebuilds it."
            )
        self._is_checked[chunk] = True


class Tokens(NamedTuple):
    """A tokenized corpus; each document is followed by the end of text."""

    fingerprint: str  # identifies the documents, their sides and the tokenizer; name of the folder
    tokenizer: Tokenizer
    end_of_text: int
    train: TokenFile
    held_out: TokenFile


class Writer:
    """Writes tokens and their checksums."""

    def __init__(self, path: Path) -> None:
        self._file, self._checksums = path.open("wb"), path.with_suffix(".crc").open("wb")
        self._pending = bytearray()

    def write(self, tokens: np.ndarray) -> None:
        """Append tokens."""
        self._pending += tokens.tobytes()
        whole = len(self._pending) // CHUNK * CHUNK
        for at in range(0, whole, CHUNK):
            self._flush(self._pending[at : at + CHUNK])
        del self._pending[:whole]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Write what is left and flush it to disk; after an error, only close the files."""
        files = (self._file, self._checksums)
        try:
            if kind is None and self._pending:
                self._flush(self._pending)
            for file in files if kind is None else ():
                file.flush()
                make_durable(file.fileno())
        finally:
            for file in files:
                with contextlib.suppress(OSError):  # after an error there may be no room for the buffer either
                    file.close()

    def _flush(self, chunk: bytearray) -> None:
        self._file.write(chunk)
        self._checksums.write(zlib.crc32(chunk).to_bytes(4, "little"))


def open_tokens(cache_dir: Path, fingerprint: str, say: Callable[[str], None]) -> Tokens | None:
    """Return the content of a folder, or None if it is missing or damaged.

    Sizes, and the hashes of the small files, are compared here; tokens when they are read.
    """
    folder = cache_dir / fingerprint
    if not folder.is_dir():
        return None
    try:
        content = json.loads((folder / MANIFEST).read_text())
        manifest = content["manifest"]
        damaged = [MANIFEST] if content["sha256"] != _sha256(_as_json(manifest)) else _damaged(folder, manifest)
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        damaged = [MANIFEST]
    if damaged:
        say(f"{', '.join(str(folder / name) for name in damaged)}: damaged or missing, so the text is tokenized again")
        return None
    files = (TokenFile(folder / f"{side}.bin", np.dtype(manifest["dtype"])) for side in SIDES)
    return Tokens(fingerprint, load_tokenizer(folder / TOKENIZER), manifest["end_of_text"], *files)


@contextlib.contextmanager
def new_folder(cache_dir: Path, fingerprint: str) -> Iterator[Path]:
    """Yield a folder that takes its name at the end, or is removed after an error.

    The caller holds the lock of the cache.
    """
    for left_by_a_killed_run in cache_dir.glob(f"*{UNFINISHED}"):
        shutil.rmtree(left_by_a_killed_run)
    folder, final = cache_dir / f"{fingerprint}{UNFINISHED}", cache_dir / fingerprint
    folder.mkdir()
    try:
        yield folder
        if final.exists():
            shutil.rmtree(final)  # damaged, or it would have been used
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a folder whose other files are complete."""
    files = {path.name: _entry(path) for path in sorted(folder.iterdir())}
    manifest = {"layout": LAYOUT, "files": files} | manifest
    content = {"manifest": manifest, "sha256": _sha256(_as_json(manifest))}
    write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


@contextlib.contextmanager
def room_for(cache_dir: Path, needed: Callable[[], float]) -> Iterator[None]:
    """Report a full disk with the bytes that are needed, and other errors of writing."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            reason = error.strerror or str(error)
            raise UserError(f"--cache-dir {cache_dir} cannot be written ({reason}): choose another folder.") from error
        free = shutil.disk_usage(cache_dir).free
        raise UserError(
            f"--cache-dir {cache_dir} is full: the tokens of this text need about {needed() / 1e6:,.1f} MB, and its "
            f"disk has {free / 1e6:,.1f} MB left: free some, or choose another --cache-dir."
        ) from error


def _damaged(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The files that are missing, or do not have their size or hash."""
    return [
        name
        for name, entry in manifest["files"].items()
        if not (folder / name).is_file() or _entry(folder / name) != entry
    ]


def _entry(path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"bytes": path.stat().st_size}
    return entry if path.suffix == ".bin" else entry | {"sha256": _sha256(path.read_bytes())}


def _as_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
