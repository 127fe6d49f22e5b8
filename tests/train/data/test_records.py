"""Records have the names of their places, and what is wrong with one is reported with its place."""

from pathlib import Path

import pytest

from train.config.run import UserError
from train.data.records import read_records, text_of


def test_records_are_named_by_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"line 1\nline ""2""",no\nx,yes\n')
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}')
    (tmp_path / "c.txt").write_text("all\nof it")
    named = dict(read_records(f"files:{tmp_path}/*"))
    assert [Path(name).name for name in named] == ["a.csv:3", "a.csv:4", "b.jsonl:1", "b.jsonl:3", "c.txt"]
    assert named[f"{tmp_path}/c.txt"] == {"text": "all\nof it"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\nx,y\nz\n", r"a\.csv:3 has not the 2 fields of the first line"),
        ("a.csv", b"text,label\nx,y,z\n", r"a\.csv:2 has not the 2 fields"),
        ("a.csv", b'text\n"x" y\n', r"a\.csv:2 cannot be read"),
        ("a.csv", b"text,label,label\nx,y,z\n", r"a\.csv has two columns label: rename one"),
        ("a.jsonl", b'{"text": "x"}\n[1]', r"a\.jsonl:2 is not a JSON object"),
    ],
)
def test_a_broken_record_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
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
