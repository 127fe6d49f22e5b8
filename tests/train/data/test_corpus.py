"""Documents are read as described, and split without overlap."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.train.small_run import write_texts
from train.config.run import UserError
from train.data.corpus import documents, split


def test_held_out_documents_are_whole_and_not_trained_on(corpus: Path) -> None:
    corpus_documents = documents(f"files:{corpus}/**/*.py")
    parts = split(corpus_documents)
    names = [{document.name for document in part} for part in parts]
    assert names[0].isdisjoint(names[1])
    assert names[0] | names[1] == {document.name for document in corpus_documents}
    size = sum(document.bytes for document in corpus_documents)
    assert 0 < sum(document.bytes for document in parts.held_out) <= 0.05 * size


def test_the_split_does_not_depend_on_names_or_order(corpus: Path, tmp_path: Path) -> None:
    paths = sorted(path for path in corpus.rglob("*.py") if path.stat().st_size)
    for number, path in enumerate(reversed(paths)):
        shutil.copy(path, tmp_path / f"{number}.py")
    sides = [split(documents(f"files:{folder}/**/*.py")) for folder in (corpus, tmp_path)]
    digests = [[[document.sha256 for document in part] for part in parts] for parts in sides]
    assert digests[0] == digests[1]


def test_repeated_and_empty_texts_are_dropped(tmp_path: Path) -> None:
    source = write_texts(tmp_path, a="one", b="two", c="one", d="")
    assert sorted(document.text for document in documents(source)) == ["one", "two"]


def test_two_documents_are_divided_and_a_lone_one_is_cut(tmp_path: Path) -> None:
    parts = split(documents(write_texts(tmp_path, a="long " * 100, b="short")))
    assert [document.text for document in parts.held_out] == ["short"]
    (tmp_path / "b.txt").unlink()
    (train,), (held_out,) = split(documents(f"files:{tmp_path}/*.txt"))
    assert train.text + held_out.text == "long " * 100
    assert held_out.bytes == 25


def test_a_bound_takes_whole_documents(tmp_path: Path) -> None:
    source = write_texts(tmp_path, a="a" * 400, b="b" * 400, c="c" * 400)
    assert {document.text[0] for document in documents(source, megabytes=1e-3)} == {"a", "b"}
    with pytest.raises(UserError, match=r"no text within --data-megabytes 0\.0001"):
        documents(source, megabytes=1e-4)


def test_json_lines_are_documents_compressed_or_not(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}\u2028\n", "url": "x"}) for i in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:2]) + "\n\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(lines[2:]))
    corpus_documents = documents(f"files:{tmp_path}/*")
    assert sorted(document.text for document in corpus_documents) == [f"text {i}\u2028\n" for i in range(4)]
    assert {document.name for document in corpus_documents} >= {f"{tmp_path}/b.jsonl.gz:2"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"texts": 1}', r"a\.jsonl:2 has no \"text\" string: it has texts"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1 has no \"text\" string: its text is a int"),
        ("a.jsonl", b'{"text": "x"', r"a\.jsonl:1 is not JSON"),
        ("a.jsonl.gz", b"not compressed", r"a\.jsonl\.gz is not UTF-8 text"),
        ("a.txt", b"\xff\xfe", r"a\.txt is not UTF-8 text"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        documents(f"files:{tmp_path}/*")


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\*\.txt matches no file.*quote the pattern"):
        documents(f"files:{tmp_path}/nothing*.txt")


def test_stdlib_is_bounded_mixed_and_the_same_every_time() -> None:
    corpus_documents = documents("stdlib", megabytes=1.0)
    assert corpus_documents == documents("stdlib", megabytes=1.0)
    assert 0.9e6 < sum(document.bytes for document in corpus_documents) <= 1e6
    assert {"stdlib", "jax"} <= {document.name.split(":")[0] for document in corpus_documents}
