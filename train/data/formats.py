"""What a file holds, and its content as a stream.

The first bytes of a file say whether it is compressed, Parquet or no text at all; its name says
which text. A file whose name says nothing has JSON lines if its first line is a JSON object with a
"text", or its first two lines are JSON objects. The mark of UTF-8 at the beginning of a file (BOM)
is no text and is left out.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TextIO, cast

from train.config.run import UserError

Format = Literal["parquet", "lines", "array", "table", "text"]
Records = Iterator[tuple[str, Mapping[str, Any]]]

SEPARATORS = {".csv": ",", ".tsv": "\t"}
GZIP, PARQUET, MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"BZh91AY&SY": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"%PDF-": "a PDF",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
HEAD = 1 << 16  # bytes that are looked at
BLOCK = 1 << 20  # characters of a JSON array, and of a text, that are read at once
DECODER = json.JSONDecoder()
SPACE, COMMA, ARRAY_END = (re.compile(rf"\s*{mark}\s*") for mark in ("", ",", r"\]"))
ROWS = 64  # of a Parquet file that are read at once: texts may be long

csv.field_size_limit(sys.maxsize >> 32)  # what fits a C long anywhere, as a text may be longer than 128 kB


class Unreadable(UserError):
    """A file that is no text, or is damaged; the message names it."""


def format_of(path: Path) -> Format:
    """Return what a file holds.

    Raises:
      Unreadable: If it is no text.
      UserError: If it is JSON, but neither lines nor an array of objects.
    """
    with _reading(path), _opened(path) as file:
        head = file.read(HEAD)
    suffix = _suffix(path)
    if suffix == ".parquet" or (head.startswith(PARQUET) and _ends_with(path, PARQUET)):
        return "parquet"
    what = next((name for magic, name in OTHERS.items() if head.startswith(magic)), "binary" if b"\0" in head else None)
    if what:
        raise _other(path, what)
    if suffix in SEPARATORS:
        return "table"
    start = head.removeprefix(MARK).lstrip()
    if says_json(path):
        if start.startswith(b"["):
            return "array"
        if suffix == ".json" and start and not _first_objects(path):
            raise UserError(f"{path} has neither a JSON object a line nor an array of objects: convert it to either.")
        return "lines"
    objects = _first_objects(path) if start.startswith(b"{") else []
    return "lines" if len(objects) == 2 or any("text" in one for one in objects) else "text"


def says_json(path: Path) -> bool:
    """Whether a file has JSON by its name."""
    return _suffix(path) in (".json", ".jsonl", ".ndjson")


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _other(path: Path, what: str) -> Unreadable:
    return Unreadable(f"{path} is {what}, and no UTF-8 text: convert it, or restrict the pattern to text files.")


def records_of(path: Path, kind: Format) -> Records:
    """Yield (file:line or file:number, record) of a file of records."""
    if kind == "parquet":
        return _rows(path)
    return {"lines": _lines, "array": _array, "table": _table}[kind](path)


def blocks_of_text(path: Path) -> Iterator[str]:
    """Yield a text as it is, in blocks."""
    with _text(path) as file:
        yield from iter(lambda: file.read(BLOCK), "")


class _Checked(io.RawIOBase):
    """The bytes of a file, as long as they may be text."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        if b"\0" in content:
            raise _other(self._path, "binary")
        buffer[: len(content)] = content
        return len(content)


@contextlib.contextmanager
def _text(path: Path, newline: str = "") -> Iterator[TextIO]:
    """Open a text, compressed or not, to be read as a stream."""
    with _reading(path), _opened(path) as file:
        yield io.TextIOWrapper(io.BufferedReader(_Checked(file, path), HEAD), encoding="utf-8-sig", newline=newline)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in an error of reading."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"{path} is not UTF-8 text ({error}): convert it, or restrict the pattern to text files."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"{path} cannot be read ({reason}): restore it, or restrict the pattern.") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as raw:
        is_compressed = raw.peek(2).startswith(GZIP)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=raw) if is_compressed else raw)


def _ends_with(path: Path, magic: bytes) -> bool:
    with _reading(path), open(path, "rb") as file:
        file.seek(-len(magic), io.SEEK_END)
        return file.read() == magic


def _first_objects(path: Path) -> list[Mapping[str, Any]]:
    """The JSON objects that the first two lines are, as far as they are; the first alone if it has
    a "text".
    """
    with _text(path, "\n") as file:
        first = _object(next((line for line in file if line.strip()), ""))
        if first is None or "text" in first:
            return [] if first is None else [first]
        second = _object(next((line for line in iter(lambda: file.readline(BLOCK), "") if line.strip()), ""))
    return [first] if second is None else [first, second]


def _object(line: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> Records:
    # Only \n ends a record: the other line separators of Unicode may occur inside one.
    with _text(path, "\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number} is not JSON: {error}.") from error
            yield _named(f"{path}:{number}", record)


def _array(path: Path) -> Records:
    """Read an array object by object, in blocks that grow while an object is longer."""
    with _text(path) as file:
        buffer, at, size, number = file.read(BLOCK).lstrip()[1:], 0, BLOCK, 1
        while not (end := ARRAY_END.match(buffer, at)):
            try:
                record, at = _item(buffer, at, is_first=number == 1)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not (more := file.read(size)):
                    raise UserError(f"{path} is not JSON after {number - 1} objects: {error}.") from error
                buffer, at, size = buffer[at:] + more, 0, 2 * size
                continue
            yield _named(f"{path}:{number}", record)
            number, size = number + 1, BLOCK
        if any(part.strip() for part in itertools.chain([buffer[end.end() :]], iter(lambda: file.read(BLOCK), ""))):
            raise UserError(f"{path} has more after an array of {number - 1} objects: make it one array.")


def _item(buffer: str, at: int, is_first: bool) -> tuple[Any, int]:
    """An item of an array, and where it ends. A comma comes before all but the first."""
    start = (SPACE if is_first else COMMA).match(buffer, at)
    if start is None:
        raise ValueError(f"',' is missing: {buffer[at : at + 20]!r}")
    return DECODER.raw_decode(buffer, start.end())


def _named(name: str, record: object) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(record, dict):
        raise UserError(f"{name} is not a JSON object.")
    return name, record


def _table(path: Path) -> Records:
    separator = SEPARATORS[_suffix(path)]
    with _text(path) as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        try:
            names = reader.fieldnames or ()
            if twice := {name for name in names if names.count(name) > 1}:
                raise UserError(f"{path} has two columns {', '.join(sorted(twice))}: rename one.")
            for record in reader:
                name = f"{path}:{reader.line_num}"
                if None in record or None in record.values():
                    raise UserError(f"{name} has not the {len(reader.fieldnames or ())} fields of the first line.")
                yield name, record
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num + 1} cannot be read: {error}.") from error


def _rows(path: Path) -> Records:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise UserError(f"reading {path} requires pyarrow: pip install pyarrow.") from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise Unreadable(f"{path} is not a Parquet file: {error}.") from error
