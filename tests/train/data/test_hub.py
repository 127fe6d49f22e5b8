"""Data sets of Hugging Face, opened and read by their package."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from train.config.run import UserError
from train.data.corpus import documents, survey
from train.data.hub import DatasetName, OpenDataset, Stream
from train.data.sources import open_source

COUNT = 20
TEXTS = {name: [f"{name} {i} " * 9 for i in range(COUNT)] for name in ("train", "validation", "other")}
NOWHERE = Path("/dev/null")  # a folder is read where it is


def write_split(folder: Path, split: str, texts: list[Any], files: int = 1) -> None:
    """Write a split as files of JSON lines with equally many texts."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    size = -(-len(texts) // files)
    for number in range(files):
        lines = (json.dumps({"text": text}) + "\n" for text in texts[number * size : (number + 1) * size])
        (folder / "data" / f"{split}-{number:05}-of-{files:05}.jsonl").write_text("".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder "texts" of the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "texts"


def fail(error: Exception, _: object) -> None:
    raise error


def sides(data: str) -> tuple[set[str], set[str]]:
    """The splits that the documents of either side come from."""
    source = open_source(data, 0.0, NOWHERE, pytest.fail)
    plan, _ = survey(source, 0.0, fail, lambda _: None)
    first_words = ["".join(document.pieces).split()[0] for part in source.parts() for document in part]
    found: tuple[set[str], set[str]] = (set(), set())
    for split, is_held_out, is_kept in zip(first_words, plan.is_held_out, plan.is_kept, strict=True):
        if is_kept:
            found[int(is_held_out)].add(split)
    return found


def test_the_validation_split_is_held_out(folder: Path) -> None:
    for split, rows in TEXTS.items():
        write_split(folder, split, rows)
    assert sides("hf:texts") == ({"train"}, {"validation"})
    assert sides("hf:texts,default,other") == ({"other"}, {"validation"})
    write_split(folder, "train", TEXTS["train"] + TEXTS["validation"])  # texts of both are held out only
    assert sides("hf:texts") == ({"train"}, {"validation"})


def test_without_one_a_part_is_held_out(folder: Path) -> None:
    write_split(folder, "all", TEXTS["train"])
    assert sides("hf:texts") == ({"train"}, {"train"})


def test_an_evaluation_reads_the_split_that_is_named(folder: Path) -> None:
    for split, rows in TEXTS.items():
        write_split(folder, split, rows)
    for split in ("train", "validation"):
        assert list(documents(open_source(f"hf:texts,default,{split}", 0.0, NOWHERE), 0.0)) == TEXTS[split]


def test_the_state_of_a_folder_is_that_of_its_files(folder: Path) -> None:
    write_split(folder, "train", TEXTS["train"])
    source = open_source("hf:texts", 0.0, NOWHERE)
    before = source.state()
    write_split(folder, "train", TEXTS["other"])
    assert list(before) == list(source.state())
    after = source.state()
    assert before != after
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_text("of no text")
    assert source.state() == after
    hidden = folder.parent / ".hidden"
    folder.rename(hidden)
    assert len(DatasetName.of(f"hf:{hidden}").state()) == len(after)


def as_lines(folder: Path, number: int, rows: list[dict[str, str]]) -> None:
    (folder / f"train-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_gzip(folder: Path, number: int, rows: list[dict[str, str]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / f"train-{number}.json.gz").write_bytes(gzip.compress(content))


def as_parquet(folder: Path, number: int, rows: list[dict[str, str]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"train-{number}.parquet", row_group_size=7)


@pytest.mark.parametrize("write", [as_lines, as_gzip, as_parquet])
@pytest.mark.parametrize("is_same_version", [True, False])
def test_a_stream_continues_again_and_again(write: Callable[..., None], is_same_version: bool, folder: Path) -> None:
    folder.mkdir()
    expected = [f"row {number}" for number in range(72)]
    for file in range(3):
        write(folder, file, [{"text": text, "other": "x"} for text in expected[24 * file : 24 * (file + 1)]])
    read, rows, position = list[str](), 0, None
    while True:
        stream = Stream(OpenDataset.open(DatasetName.of("hf:texts")), "train", rows, position)
        texts = [text for _, text in zip(range(5), stream.texts(), strict=False)]
        if not texts:
            break
        read += texts
        rows, position = stream.rows, json.loads(json.dumps(stream.position()))
        if not is_same_version:
            position["datasets"] = "another"
    assert read == expected


def test_rows_without_text_are_left_out_and_counted(folder: Path) -> None:
    write_split(folder, "train", ["a", None, "b"])
    said = list[str]()
    source = open_source("hf:texts", 0.0, NOWHERE, said.append)
    for _ in range(2):
        assert ["".join(document.pieces) for part in source.parts() for document in part] == ["a", "b"]
    assert said == ["rows of train without text, which were left out: 1"]


@pytest.mark.parametrize(
    ("data", "rows", "message"),
    [
        ("hf:texts,default,test", [{"text": "x"}], "has the splits train: name one of them, as hf:NAME,CONFIG,SPLIT"),
        ("hf:texts", [{"words": "x"}], 'texts:train:1 has no "text" string: it has words'),
        ("hf:texts", [{"text": 3}], 'texts:train:1 has no "text" string: its text is a int'),
        ("hf:texts,en", [{"text": "x"}], "--data hf:texts,en cannot be opened: .*en.* not found"),
        ("hf:texts", [], "--data hf:texts cannot be opened: "),
        ("hf:,en", [{"text": "x"}], "--data hf:,en is not of the form hf:NAME"),
        ("hf:texts,default,train,more", [{"text": "x"}], "is not of the form hf:NAME"),
        ("hf:texts@v1", [{"text": "x"}], "hf:texts@v1 names a revision, but texts is a folder here, which has none"),
    ],
)
def test_what_is_missing_is_named(data: str, rows: list[dict[str, Any]], message: str, folder: Path) -> None:
    folder.mkdir()
    as_lines(folder, 0, rows)
    with pytest.raises(UserError, match=message):
        list(documents(open_source(data, 0.0, NOWHERE), 0.0))


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"--data hf:x requires the package datasets: pip install '\.\[hf\]'"):
        OpenDataset.open(DatasetName.of("hf:x"))


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("hf:a/b", ("a/b", "", "", "")),
        ("hf:a/b@v1,en", ("a/b", "v1", "en", "")),
        ("hf:a/b,,other", ("a/b", "", "", "other")),
    ],
)
def test_names(data: str, parts: tuple[str, str, str, str]) -> None:
    assert DatasetName.of(data) == (data, *parts)
