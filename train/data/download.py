"""What is downloaded of the data sets of Hugging Face: a folder for each, to which texts are added.

SPLIT-00000.jsonl.gz   texts of a split, about `SHARD` bytes of them
record.json            the shards of each split, each with the position in the stream that follows

A shard counts when the record names it, so a download that was killed continues after the last one.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from train.config.run import UserError
from train.data.hub import DatasetName, OpenDataset, Stream
from train.data.plan import HELD_OUT
from train.data.progress import Progress
from train.system.files import full_disk, locked, make_durable, write_whole

# A shard ends after this much text, or this long. An interruption loses one shard at most.
SHARD, SECONDS = 32 << 20, 30.0  # bytes, seconds
RECORD, SUFFIX = "record.json", ".jsonl.gz"
LEVEL = 1  # of compression: 20 to 40 MB/s on one core

Say = Callable[[str], None]
Sides = Callable[[Sequence[str]], dict[str, bool | None]]  # of the names of all splits: those to read


class SplitFiles(NamedTuple):
    """The files of one split, and the side that it is on, or None."""

    paths: list[Path]
    is_held_out: bool | None


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of texts.

    Attributes:
      name: Its name.
      size: Its bytes.
      rows: Rows of the split up to its end.
      bytes_of_text: Bytes of their texts.
      position: Where the stream continues.
    """

    name: str
    size: int
    rows: int
    bytes_of_text: int
    position: Any


@dataclasses.dataclass
class StoredSplit:
    """The shards of a split that are on disk.

    Attributes:
      shards: In the order of the stream.
      is_whole: Nothing follows the last of them.
    """

    shards: list[Shard] = dataclasses.field(default_factory=list)
    is_whole: bool = False

    @property
    def last(self) -> Shard:
        """The last shard, or one that is empty."""
        return self.shards[-1] if self.shards else Shard("", 0, 0, 0, None)

    def missing_bytes(self, megabytes: float, is_held_out: bool | None) -> float:
        """Return how many bytes of text are missing of `megabytes`; infinity if all are wanted."""
        wanted = (HELD_OUT if is_held_out else 1.0) * megabytes * 1e6 or float("inf")
        return 0.0 if self.is_whole else max(wanted - self.last.bytes_of_text, 0.0)


@dataclasses.dataclass
class Record:
    """What is on disk of a data set.

    Attributes:
      revision: The revision that all of it is of.
      names: The names of all its splits.
      splits: Those of which there is something.
    """

    revision: str
    names: list[str]
    splits: dict[str, StoredSplit]

    @classmethod
    def read(cls, folder: Path, say: Say) -> Self | None:
        """Read a record; None if there is none. Shards after a missing one are left out."""
        path = folder / RECORD
        try:
            content = json.loads(path.read_text())
            for name, split in content["splits"].items():
                shards = [Shard(**shard) for shard in split["shards"]]
                content["splits"][name] = _intact(folder, StoredSplit(shards, bool(split["is_whole"])))
            return cls(str(content["revision"]), list(content["names"]), content["splits"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): make it readable.") from error
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            say(f"{path} is damaged: the data set is downloaded again, at the revision of now")
            return None

    def write(self, folder: Path) -> None:
        """Write the record."""
        write_whole(folder / RECORD, json.dumps(dataclasses.asdict(self)) + "\n")


def fetch(name: DatasetName, sides: Sides, megabytes: float, cache_dir: Path, say: Say) -> list[SplitFiles]:
    """Return the files of a data set.

    What is missing of `megabytes` (0: all) of text is downloaded first.

    Args:
      name: The data set.
      sides: Returns the splits to read, given the names of all, and the side of each.
      megabytes: Of text to train on; of held-out text a part of it.
      cache_dir: Where downloads are.
      say: Reports progress.

    Raises:
      UserError: If the package, the data set or a split is missing, or the stream breaks off.
    """
    folder = _folder_of(name, cache_dir)
    record = Record.read(folder, say)
    if record is None or any(_missing(record, sides, megabytes).values()):
        opened = OpenDataset.open(name, record.revision if record else "")
        sides(list(opened.splits))  # before there is a folder
        with locked(folder, waiting=lambda: say(f"another process downloads --data {name.data}: waiting for it")):
            record = Record.read(folder, lambda _: None) or Record(opened.revision, list(opened.splits), {})
            if record.revision != opened.revision:  # another process was first
                opened = OpenDataset.open(name, record.revision)
            _download(record, opened, _missing(record, sides, megabytes), folder, say)
    return [
        SplitFiles([folder / shard.name for shard in record.splits[split].shards], side)
        for split, side in sides(record.names).items()
    ]


def _folder_of(name: DatasetName, cache_dir: Path) -> Path:
    identity = repr((name.repository, name.revision, name.config))
    readable = "".join(letter if letter.isalnum() else "-" for letter in name.repository)
    return cache_dir / "downloads" / f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _missing(record: Record, sides: Sides, megabytes: float) -> dict[str, float]:
    """Bytes of text that are missing of each split."""
    return {
        split: record.splits.setdefault(split, StoredSplit()).missing_bytes(megabytes, side)
        for split, side in sides(record.names).items()
    }


def _download(record: Record, opened: OpenDataset, missing: dict[str, float], folder: Path, say: Say) -> None:
    """Download the missing bytes of text of each split."""
    named = {shard.name for split in record.splits.values() for shard in split.shards}
    for path in folder.glob(f"*{SUFFIX}"):
        if path.name not in named:
            path.unlink()
    total = sum(missing.values())
    with Progress(say, "downloaded", 0 if total == float("inf") else int(total)) as progress, _room_in(folder):
        for name, size in missing.items():
            split = record.splits[name]
            stream = Stream(opened, name, split.last.rows, split.last.position)
            with contextlib.closing(stream.texts()) as texts:
                goal = split.last.bytes_of_text + size
                while split.last.bytes_of_text < goal and not split.is_whole:
                    _add_shard(
                        split, folder / f"{name}-{len(split.shards):05}{SUFFIX}", stream, texts, goal, progress.add
                    )
                    record.write(folder)
            if stream.without_text:
                say(f"rows of {name} without text, which were left out: {stream.without_text}")


def _add_shard(
    split: StoredSplit, path: Path, stream: Stream, texts: Iterator[str], goal: float, add: Callable[[int], None]
) -> None:
    """Write the next shard of a split that is to have `goal` bytes of text."""
    before = split.last.bytes_of_text
    size, split.is_whole = _write(path, texts, min(goal - before, SHARD), add)
    if stream.rows > split.last.rows:
        split.shards.append(Shard(path.name, path.stat().st_size, stream.rows, before + size, stream.position()))
    else:
        path.unlink()


def _write(path: Path, texts: Iterator[str], limit: float, add: Callable[[int], None]) -> tuple[int, bool]:
    """Write texts until they have `limit` bytes, or time is up.

    Returns:
      Their bytes, and whether they are the last.
    """
    size, end = 0, float("inf")
    with _compressed(path) as file:
        for text in texts:
            end = min(end, time.monotonic() + SECONDS)  # from the first text on: others may be passed over first
            file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            added = len(text.encode())
            size += added
            add(added)
            if size >= limit or time.monotonic() > end:
                return size, False
    return size, True


@contextlib.contextmanager
def _compressed(path: Path) -> Iterator[gzip.GzipFile]:
    """Write a file, which is removed after an error."""
    try:
        with path.open("wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=LEVEL, mtime=0) as file:
                yield file
            raw.flush()
            make_durable(raw.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _intact(folder: Path, split: StoredSplit) -> StoredSplit:
    sizes = [path.stat().st_size if (path := folder / shard.name).is_file() else -1 for shard in split.shards]
    for number, (size, shard) in enumerate(zip(sizes, split.shards, strict=True)):
        if size != shard.size:
            return StoredSplit(split.shards[:number])
    return split


@contextlib.contextmanager
def _room_in(folder: Path) -> Iterator[None]:
    """Say what to do about a full disk."""
    try:
        yield
    except OSError as error:
        if full_disk(error) is None:
            raise
        raise UserError(
            f"there is no room for {folder}: free some and run the command again, which continues, or choose another "
            "--cache-dir."
        ) from error
