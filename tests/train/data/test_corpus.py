"""Documents are read as described, in pieces, and a sample of them is chosen."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.small_run import write_texts
from train.config.run import UserError
from train.data import corpus, sources
from train.data.corpus import documents, survey
from train.data.sources import Document, Source, open_source

NOWHERE = Path("/dev/null")  # only downloads need a folder


def read(data: str, megabytes: float = 0.0) -> list[str]:
    return list(documents(open_source(data, megabytes, NOWHERE), megabytes))


def fail(error: Exception, _: object) -> None:
    raise error


def source_of(texts: list[str]) -> Source:
    def part() -> Iterator[Document]:
        for number, text in enumerate(texts):
            yield Document(str(number), iter([text]))

    return Source(dict, lambda: [part()])


def test_repeated_and_empty_texts_are_dropped(tmp_path: Path) -> None:
    assert read(write_texts(tmp_path, a="one", b="two", c="one", d="")) == ["one", "two"]


def test_a_limit_cuts_the_last_text_at_a_character(tmp_path: Path) -> None:
    source = write_texts(tmp_path, a="a" * 400, b="ü" * 400, c="c" * 400)
    assert read(source, 1e-3) == ["a" * 400, "ü" * 300]
    assert read(source, 1e-3 + 1e-6) == ["a" * 400, "ü" * 300]
    assert read(source, 1e-4) == ["a" * 100]
    assert read(source, 1.3e-3) == ["a" * 400, "ü" * 400, "c" * 100]
    lines = [json.dumps({"text": "x" * 99 + str(i)}) for i in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert [len(text) for text in read(f"files:{tmp_path}/*.jsonl", 250e-6)] == [100, 100, 50]


def test_a_long_text_is_read_in_pieces_that_end_at_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 40)
    text = "a line\r\nanother line\n" * 9 + "and words without end " * 9 + "x" * 90 + "\n"
    source = open_source(write_texts(tmp_path, a=text), 0.0, NOWHERE)
    parts = [piece.utf8.decode() for piece in corpus.pieces(source, 0.0, fail)]
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 40
    assert all(part.endswith("\n") for part in parts[:4])
    assert read(f"files:{tmp_path}/*.txt") == [text]
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}))
    assert read(f"files:{tmp_path}/*") == [text]  # the same text, and the same digest


def test_documents_can_be_taken_before_their_texts(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("one", "two")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (part,) = open_source(f"files:{tmp_path}/*", 0.0, NOWHERE).parts()
    assert [list(document.pieces) for document in list(part)] == [["one"], ["two"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"b": 2}\nTraceback', 'a.log:1 has no "text" string: it has a. Its first lines are JSON'),
        (b'{}\n{"b": 2}', 'a.log:1 has no "text" string: it has nothing. Its first lines are JSON'),
        (b'{"text": "a"}\nTraceback', "a.log:2 is not JSON"),
        (b"x" * 3000 + b"\0", "a.log is binary"),
    ],
)
def test_a_file_that_is_not_what_it_seems_can_be_skipped(content: bytes, message: str, tmp_path: Path) -> None:
    """And what was read of it does not count."""
    (tmp_path / "a.log").write_bytes(content)
    (tmp_path / "b.txt").write_text("y" * 2000)
    source, skipped = open_source(f"files:{tmp_path}/*", 4e-3, NOWHERE), list[str]()
    kept = list(corpus.pieces(source, 4e-3, lambda error, _: skipped.append(str(error))))
    assert b"".join(piece.utf8 for piece in kept if piece.name.endswith("b.txt")) == b"y" * 2000
    (error,) = skipped
    assert message in error


def test_json_lines_are_documents_compressed_or_not(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}\u2028\n", "url": "x"}) for i in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:2]) + "\n\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(lines[2:]))
    assert read(f"files:{tmp_path}/*") == [f"text {i}\u2028\n" for i in range(4)]


def test_the_sample_is_bounded_and_the_same_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SAMPLE", 1000)
    texts = [f"text number {i} " * 5 for i in range(200)]
    plan, sample = survey(source_of(texts), 0.0, fail, lambda _: None)
    assert 900 < sum(map(len, sample)) <= 1000
    again = survey(source_of([*texts[::-1], *texts]), 0.0, fail, lambda _: None).sample
    assert sorted(again) == sorted(sample)
    held_out = {texts[i] for i in range(200) if plan.is_held_out[i]}
    assert len(held_out) > 5
    assert not held_out & set(sample)


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\*\.txt matches no file.*quote the pattern"):
        open_source(f"files:{tmp_path}/nothing*.txt", 0.0, NOWHERE)


def test_stdlib_is_bounded_mixed_and_the_same_every_time() -> None:
    texts = read("stdlib", 1.0)
    assert texts == read("stdlib", 1.0)
    assert 0.9e6 < sum(len(text.encode()) for text in texts) <= 1e6
    names = [piece.name for piece in corpus.pieces(open_source("stdlib", 1.0, NOWHERE), 1.0, fail)]
    assert {"stdlib", "jax"} <= {name.split(":")[0] for name in names}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "is a folder: give files:'{folder}/**/*' for all in it"),
        ("/a[1].txt", "is a file, but its name is also a pattern: give files:'{folder}/a[[]1].txt'"),
    ],
)
def test_a_pattern_that_means_something_else_is_explained(pattern: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("text")
    with pytest.raises(UserError, match=re.escape(message.format(folder=tmp_path))):
        open_source(f"files:{tmp_path}{pattern}", 0.0, NOWHERE)
    assert read(f"files:{tmp_path}/a[[]1].txt") == ["text"]
