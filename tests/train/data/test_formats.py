"""What a file holds is found out from its content, or the file is refused by name."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from train.config.run import UserError
from train.data import formats
from train.data.formats import format_of
from train.data.records import read_records

OBJECTS = [{"text": "a, b", "url": "x"}, {"text": 'line 1\nline "2"', "url": "y"}]
LINES = "\n".join(map(json.dumps, OBJECTS)).encode()
ARRAY = json.dumps(OBJECTS, indent=1).encode()
TABLE = b'text,url\n"a, b",x\n"line 1\nline ""2""",y\n'
MARK = "\ufeff".encode()

SAME = {
    "a.jsonl": LINES,
    "b.json": LINES,
    "c.json": ARRAY,
    "d.jsonl": ARRAY,
    "e.ndjson": LINES,
    "f.csv": TABLE,
    "g.tsv": TABLE.replace(b",", b"\t").replace(b"a\t b", b"a, b"),
    "h.txt": LINES,
    "i": LINES,
}


def read(path: Path) -> list[dict[str, object]]:
    return [dict(record) for _, record in read_records(f"files:{path}")]


@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("mark", [b"", MARK], ids=["", "with a mark"])
@pytest.mark.parametrize("name", SAME)
def test_all_kinds_hold_the_same_records(name: str, mark: bytes, is_compressed: bool, tmp_path: Path) -> None:
    content = mark + SAME[name]
    for end in ("", ".gz"):  # the name does not say whether it is compressed
        (tmp_path / (name + end)).write_bytes(gzip.compress(content) if is_compressed else content)
        assert read(tmp_path / (name + end)) == OBJECTS


def test_a_parquet_file_is_found_under_any_name(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.txt"):
        parquet.write_table(pa.Table.from_pylist(OBJECTS), tmp_path / name)
        assert read(tmp_path / name) == OBJECTS


@pytest.mark.parametrize(
    "content",
    [b"plain", b"{not JSON", b'{"name": "x"}', b'{"name": "x"}\nmore', b"[1, 2]", b"PAR1, a text", b"\r\n x \n"],
)
def test_another_text_is_taken_as_it_is(content: bytes, tmp_path: Path) -> None:
    for mark in (b"", MARK):
        (tmp_path / "a.txt").write_bytes(mark + content)
        assert read(tmp_path / "a.txt") == [{"text": content.decode()}]


def test_lines_of_objects_are_records_under_any_name(tmp_path: Path) -> None:
    """Without a text, too: they are not trained on as they are, but refused."""
    objects = [{"content": "a"}, {"content": "b"}]
    for name in ("a.txt", "a.log"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, objects)))
        assert read(tmp_path / name) == objects


def test_an_array_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "BLOCK", 7)
    records = [{"text": "x" * size, "inner": [{"y": size}]} for size in (0, 3, 100, 1)]
    (tmp_path / "a.json").write_text(f" {json.dumps(records, indent=2)} ")
    assert read(tmp_path / "a.json") == records
    (tmp_path / "a.json").write_text("[]")
    assert read(tmp_path / "a.json") == []


def test_a_table_may_have_long_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 300_000 + "\n")
    assert read(tmp_path / "a.csv") == [{"text": "x" * 300_000}]


REFUSED = {
    "UTF-16": ("a.txt", "text".encode("utf-16"), "is UTF-16, and no UTF-8 text: convert it"),
    "a zip": ("a.txt", b"PK\x03\x04...", "is a zip archive"),
    "zstd": ("a.jsonl.zst", b"\x28\xb5\x2f\xfd...", "is compressed by zstd"),
    "binary": ("a.txt", b"text\0", "is binary"),
    "binary after a long text": ("a.txt", b"text" * 99_999 + b"\0", "is binary, and no UTF-8 text"),
    "binary after a long text in a table": ("a.csv", b"text\n" + b"text\n" * 99_999 + b"\0", "is binary"),
    "binary after a long text in JSON": ("a.jsonl", LINES + b"\n" * 99_999 + b"\0", "is binary"),
    "Latin-1": ("a.txt", "Müll".encode("latin-1"), "is not UTF-8 text"),
    "Latin-1 in JSON": ("a.jsonl", '{"text": "Müll"}'.encode("latin-1"), "is not UTF-8 text"),
    "cut short": ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], "cannot be read"),
    "an array cut short": ("a.json", ARRAY[:-9], "is not JSON after 1 objects"),
    "two arrays": ("a.json", ARRAY + b"\n" + ARRAY, "has more after an array of 2 objects: make it one array"),
    "text after an array": ("a.json", ARRAY + b" more", "has more after an array of 2 objects"),
    "no comma": ("a.json", b'[{"text": "a"} {"text": "b"}]', "is not JSON after 1 objects: ',' is missing"),
    "two commas": ("a.json", b'[{"text": "a"},, {"text": "b"}]', "is not JSON after 1 objects"),
    "a comma at the end": ("a.json", b'[{"text": "a"},]', "is not JSON after 1 objects"),
    "a comma at the beginning": ("a.json", b'[, {"text": "a"}]', "is not JSON after 0 objects"),
    "an array of numbers": ("a.json", b"[1, 2]", ":1 is not a JSON object"),
    "one object": ("a.json", b'{\n "text": "x"\n}', "neither a JSON object a line nor an array of objects"),
    "no Parquet": ("a.parquet", b"text", "is not a Parquet file"),
    "Parquet cut short": ("a.parquet", b"PAR1", "is not a Parquet file"),
    "a broken line": ("a.jsonl", b'{"text": "x"}\n{"text"', ":2 is not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, content, message = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt cannot be read \(No such file or directory\)"):
        format_of(tmp_path / "a.txt")
