"""Data sets of Hugging Face on disk: a folder that grows and is never read from the network twice.

SPLIT-00000.jsonl.gz   the texts of a split, about `SHARD` bytes of them
record.json            the shards, each with the position in the stream that follows it

A shard counts when the record names it, so a download that was killed continues after the last one.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from train.data.hub import Splits, Stream
from train.data.paths import from_anywhere
from train.data.plan import HELD_OUT
from train.data.progress import Progress
from train.system.files import locked, make_durable, write_whole

SHARD, SECONDS = 32 << 20, 30.0  # bytes of text in a shard, or the time it takes: what an interruption loses
RECORD, SUFFIX = "record.json", ".jsonl.gz"
LEVEL = 1  # of compression: faster than any network, and a third of the text is left


class Downloaded(NamedTuple):
    """The files of one split, and the side that it is on, or None."""

    paths: list[Path]
    is_held_out: bool | None


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of texts: its size, how much text of the split there is up to its end, and where
    the stream goes on.
    """

    name: str
    size: int
    texts: int
    bytes_of_text: int
    position: Any


@dataclasses.dataclass
class Split:
    """What is there of a split."""

    name: str
    is_held_out: bool | None
    shards: list[Shard]
    is_whole: bool = False

    def lacks(self, megabytes: float) -> float:
        """Return how many bytes of text are missing; infinity if all are wanted."""
        share = HELD_OUT if self.is_held_out else 1.0
        wanted = share * megabytes * 1e6 or float("inf")
        return 0.0 if self.is_whole else max(wanted - self.bytes_of_text, 0.0)

    @property
    def bytes_of_text(self) -> int:
        """Bytes of all its texts."""
        return self.shards[-1].bytes_of_text if self.shards else 0


@dataclasses.dataclass
class Record:
    """What is there of a data set, at one revision of it."""

    identity: str
    splits: list[Split]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read a record, without the shards that are missing or cut; None if there is none."""
        try:
            content = json.loads((folder / RECORD).read_text())
            splits = [
                Split(**split | {"shards": [Shard(**shard) for shard in split["shards"]]})
                for split in content["splits"]
            ]
            record = cls(str(content["identity"]), splits)
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
            return None  # there is none, or it is damaged
        for split in record.splits:
            whole = [
                (folder / shard.name).is_file() and (folder / shard.name).stat().st_size == shard.size
                for shard in split.shards
            ]
            if not all(whole):
                del split.shards[whole.index(False) :]
                split.is_whole = False
        return record

    def write(self, folder: Path) -> None:
        """Write a record."""
        write_whole(folder / RECORD, json.dumps(dataclasses.asdict(self)) + "\n")


def fetch(data: str, megabytes: float, cache_dir: Path, say: Callable[[str], None]) -> list[Downloaded]:
    """Return the files of a data set: its validation split, if it has one, and that to train on.

    What is missing of `megabytes` (0: all) of text is downloaded first.

    Raises:
      UserError: If the package, the data set or a split is missing, or the stream breaks off.
    """
    folder = cache_dir / "downloads" / hashlib.sha256(from_anywhere(data).encode()).hexdigest()[:32]
    with locked(folder):
        record = Record.read(folder)
        if record is None or any(split.lacks(megabytes) for split in record.splits):
            record = _completed(record, data, megabytes, folder, say)
        return [
            Downloaded([folder / shard.name for shard in split.shards], split.is_held_out) for split in record.splits
        ]


def _completed(record: Record | None, data: str, megabytes: float, folder: Path, say: Callable[[str], None]) -> Record:
    opened = Splits.open(data, record.identity if record else None)
    if record is None or record.identity != opened.identity:
        if record is not None:
            say(f"--data {data} has changed, or the package datasets has: it is downloaded again")
        record = Record(opened.identity, [Split(name, side, []) for name, side in opened.chosen().items()])
        record.write(folder)
    named = {shard.name for split in record.splits for shard in split.shards}
    for path in folder.glob(f"*{SUFFIX}*"):
        if path.name not in named:
            path.unlink()
    missing = sum(split.lacks(megabytes) for split in record.splits)
    with Progress(say, "downloaded", 0 if missing == float("inf") else int(missing)) as progress:
        for split in record.splits:
            for _ in _shards(split, opened, megabytes, folder, progress.add):
                record.write(folder)
    return record


def _shards(split: Split, opened: Splits, megabytes: float, folder: Path, add: Callable[[int], None]) -> Iterator[None]:
    """Add shards to a split until enough is there."""
    last = split.shards[-1] if split.shards else Shard("", 0, 0, 0, None)
    stream = Stream(opened, split.name, last.texts, last.position)
    with contextlib.closing(stream.texts()) as texts:
        while limit := split.lacks(megabytes):
            path = folder / f"{split.name}-{len(split.shards):05}{SUFFIX}"
            count, size, split.is_whole = _write(path, texts, min(limit, SHARD), add)
            if count:
                last = Shard(
                    path.name, path.stat().st_size, last.texts + count, last.bytes_of_text + size, stream.position()
                )
                split.shards.append(last)
            yield


def _write(path: Path, texts: Iterator[str], limit: float, add: Callable[[int], None]) -> tuple[int, int, bool]:
    """Write texts until they have `limit` bytes, or time is up.

    Returns:
      How many there are, their bytes, and whether they are the last.
    """
    count, size, is_last, began = 0, 0, True, time.monotonic()
    with path.open("wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=LEVEL, mtime=0) as file:
            for text in texts:
                file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
                count, size = count + 1, size + len(text.encode())
                add(len(text.encode()))
                if size >= limit or time.monotonic() - began > SECONDS:
                    is_last = False
                    break
        raw.flush()
        make_durable(raw.fileno())
    return count, size, is_last
