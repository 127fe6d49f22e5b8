"""The records of files: JSON objects, rows of tables, and whole texts.

A record is a mapping from names to values; that of a text file has the one name "text".
"""

from collections.abc import Mapping
from typing import Any

from train.config.run import UserError
from train.data.formats import Records, blocks_of_text, format_of, records_of
from train.data.paths import paths_of


def read_records(source: str) -> Records:
    """Yield (name, record) of all files that `files:GLOB` matches, ordered by path.

    Raises:
      UserError: If no file matches, or one cannot be read; it names file and line.
    """
    for path in paths_of(source):
        if (kind := format_of(path)) == "text":
            yield str(path), {"text": "".join(blocks_of_text(path))}
        else:
            yield from records_of(path, kind)


def text_of(name: str, record: Mapping[str, Any], field: str = "text") -> str:
    """Return a field that must be a text."""
    value = record.get(field)
    if not isinstance(value, str):
        is_there = (
            f"its {field} is a {type(value).__name__}"
            if field in record
            else f"it has {', '.join(record) or 'nothing'}"
        )
        raise UserError(f'{name} has no "{field}" string: {is_there}.')
    # JSON can encode half a surrogate pair, which UTF-8 cannot.
    return value.encode(errors="replace").decode()
