"""The records of files: lines of .jsonl, rows of .csv, .tsv and .parquet, and whole texts.

A record is a mapping from names to values; that of a text file has the one name "text".
"""

import csv
import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from train.config.run import FILES, UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_records(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name, record) of all files that `files:GLOB` matches, ordered by path.

    Raises:
      UserError: If no file matches, or one cannot be read; it names file and line.
    """
    pattern = source.removeprefix(FILES)
    paths = [Path(name) for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise UserError(
            f"{FILES}{pattern} matches no file (relative to {Path.cwd()}): quote the pattern, so that the shell does "
            "not expand it, and use ** to search subfolders."
        )
    for path in paths:
        kind = Path(path.name.removesuffix(".gz")).suffix
        if kind == ".parquet":
            yield from _rows(path)
        elif kind == ".jsonl":
            yield from _lines(path, _text(path))
        elif kind in SEPARATORS:
            yield from _table(path, _text(path), SEPARATORS[kind])
        else:
            yield str(path), {"text": _text(path)}


def text_of(name: str, record: Mapping[str, Any], field: str = "text") -> str:
    """Return a field that must be a text."""
    value = record.get(field)
    if not isinstance(value, str):
        is_there = f"its {field} is a {type(value).__name__}" if field in record else f"it has {', '.join(record)}"
        raise UserError(f'{name} has no "{field}" string: {is_there}.')
    # JSON can encode half a surrogate pair, which UTF-8 cannot.
    return value.encode(errors="replace").decode()


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): restrict the pattern to text files.") from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Only \n ends a record: the other line separators of Unicode may occur inside one.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number} is not JSON: {error}.") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number} is not a JSON object.")
        yield f"{path}:{number}", record


def _table(path: Path, text: str, separator: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for record in reader:
            name = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                raise UserError(f"{name} has not the {len(reader.fieldnames or ())} fields of the first line.")
            yield name, record
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num + 1} cannot be read: {error}.") from error


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise UserError(f"reading {path} requires pyarrow: pip install pyarrow.") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file: {error}.") from error
    yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, start=1))
