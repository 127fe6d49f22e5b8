"""Records of every kind of file, and files that are refused with their line."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from train.config.run import UserError
from train.data.records import read_records, text_of

ROWS = [{"text": "a, b", "label": "yes"}, {"text": 'line 1\nline "2"', "label": "no"}]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    if kind == "jsonl":
        path.write_text('{"text": "a, b", "label": "yes"}\n\n{"text": "line 1\\nline \\"2\\"", "label": "no"}')
    elif kind == "csv":
        path.write_text('text,label\n"a, b",yes\n"line 1\nline ""2""",no\n')
    elif kind == "tsv":
        path.write_text('text\tlabel\na, b\tyes\n"line 1\nline ""2"""\tno\n')
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(b'text,label\r\n"a, b",yes\r\n"line 1\nline ""2""",no\r\n'))
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "csv.gz", "parquet"])
def test_all_formats_hold_the_same_records(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    named = list(read_records(f"files:{tmp_path}/*"))
    assert [dict(record) for _, record in named] == ROWS
    assert all(name.startswith(f"{tmp_path}/a.{kind}:") for name, _ in named)


def test_another_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("all\nof it")
    assert list(read_records(f"files:{tmp_path}/*")) == [(f"{tmp_path}/b.txt", {"text": "all\nof it"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n[1]', r"a\.jsonl:2 is not a JSON object"),
        ("a.jsonl", b'{"text": "x"', r"a\.jsonl:1 is not JSON"),
        ("a.csv", b"text,label\nx,y\nz\n", r"a\.csv:3 has not the 2 fields of the first line"),
        ("a.csv", b"text,label\nx,y,z\n", r"a\.csv:2 has not the 2 fields"),
        ("a.csv", b'text\n"x" y\n', r"a\.csv:2 cannot be read"),
        ("a.parquet", b"PAR1", r"a\.parquet is not a Parquet file"),
        ("a.tsv", b"\xff", r"a\.tsv is not UTF-8 text"),
        ("a.jsonl.gz", b"plain", r"a\.jsonl\.gz is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_records(f"files:{tmp_path}/*"))


def test_a_field_that_is_no_text_is_named() -> None:
    assert text_of("f:1", {"text": "x"}) == "x"
    assert text_of("f:1", {"text": "\ud800"}) == "?"
    with pytest.raises(UserError, match=r'f:1 has no "text" string: its text is a int'):
        text_of("f:1", {"text": 3})
    with pytest.raises(UserError, match=r'f:1 has no "prompt" string: it has text, label'):
        text_of("f:1", {"text": "x", "label": 1}, "prompt")
