"""Data sets of Hugging Face, read by their package from folders, as it reads them from the hub."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from train.config.run import DataFlags, UserError
from train.data import download as downloads
from train.data.corpus import documents, survey
from train.data.download import Downloaded, fetch
from train.data.sources import open_source
from train.data.tokens import load_tokens

COUNT = 20
TEXTS = {name: [f"{name} {i} " * 9 for i in range(COUNT)] for name in ("train", "validation", "other")}
MANY = [f"{i} or so" for i in range(8000)]  # in eight files, of which the package reads the last one or two again
FOLDER = "data"  # names of files there say the split


def write_split(folder: Path, split: str, texts: list[str], files: int = 1) -> None:
    """Write a split as files of JSON lines with equally many texts."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    size = -(-len(texts) // files)
    for number in range(files):
        lines = (json.dumps({"text": text}) + "\n" for text in texts[number * size : (number + 1) * size])
        (folder / FOLDER / f"{split}-{number:05}-of-{files:05}.jsonl").write_text("".join(lines))


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder "texts" of the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "texts"


def fail(error: Exception, _: object) -> None:
    raise error


def sides(data: str, cache_dir: Path) -> tuple[set[str], set[str]]:
    """The splits that the documents of either side come from."""
    source = open_source(data, 0.0, cache_dir)
    plan, _ = survey(source, 0.0, fail, lambda _: None)
    first_words = ["".join(document.pieces).split()[0] for part in source.parts() for document in part]
    found: tuple[set[str], set[str]] = (set(), set())
    for split, is_held_out, is_kept in zip(first_words, plan.is_held_out, plan.is_kept, strict=True):
        if is_kept:
            found[int(is_held_out)].add(split)
    return found


def texts_of(splits: list[Downloaded]) -> list[str]:
    """What is in the files of a download."""
    files = (gzip.decompress(path.read_bytes()).decode() for split in splits for path in split.paths)
    return [json.loads(line)["text"] for file in files for line in file.split("\n")[:-1]]


def test_the_validation_split_is_held_out(texts: Path, tmp_path: Path) -> None:
    for split, rows in TEXTS.items():
        write_split(texts, split, rows)
    assert sides("hf:texts", tmp_path / "a") == ({"train"}, {"validation"})
    assert sides("hf:texts,default,other", tmp_path / "a") == ({"other"}, {"validation"})
    write_split(texts, "train", TEXTS["train"] + TEXTS["validation"])  # texts of both are held out only
    assert sides("hf:texts", tmp_path / "b") == ({"train"}, {"validation"})


def test_without_one_a_part_is_held_out(texts: Path, tmp_path: Path) -> None:
    write_split(texts, "all", TEXTS["train"])
    assert sides("hf:texts", tmp_path / "cache") == ({"train"}, {"train"})


def test_a_limit_holds_for_both_sides(texts: Path, tmp_path: Path) -> None:
    for split, rows in TEXTS.items():
        write_split(texts, split, rows)
    plan, _ = survey(open_source("hf:texts", 1e-3, tmp_path / "cache"), 1e-3, fail, lambda _: None)
    assert plan.sizes[plan.is_held_out].sum() == 50
    assert plan.sizes[~plan.is_held_out].sum() == 1000


def test_an_evaluation_reads_the_split_that_is_named(texts: Path, tmp_path: Path) -> None:
    for split, rows in TEXTS.items():
        write_split(texts, split, rows)
    for split in ("train", "validation"):
        assert list(documents(open_source(f"hf:texts,default,{split}", 0.0, tmp_path / "cache"), 0.0)) == TEXTS[split]


@pytest.fixture
def hub(texts: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """hf:org/texts is the folder "texts"; the revisions that are asked for."""
    revisions, load = list[str | None](), datasets.load_dataset

    def load_dataset(name: str, config: str | None, *, streaming: bool, revision: str | None) -> Any:
        assert name == "org/texts"
        revisions.append(revision)
        return load(str(texts), config, streaming=streaming)

    def dataset_info(_: object, name: str) -> SimpleNamespace:
        assert name == "org/texts"
        return SimpleNamespace(sha=f"sha{len(revisions)}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return revisions


def test_more_text_continues_at_the_same_revision(texts: Path, hub: list[str | None], tmp_path: Path) -> None:
    write_split(texts, "train", MANY, files=8)
    first = texts_of(fetch("hf:org/texts", 0.04, tmp_path, pytest.fail))
    assert first == MANY[: len(first)]
    assert 40000 <= sum(map(len, first)) < 40000 + len(MANY[-1])
    (texts / FOLDER / "train-00000-of-00008.jsonl").write_text('{"text": "not counted again"}\n')
    assert texts_of(fetch("hf:org/texts", 0.0, tmp_path, pytest.fail)) == MANY
    assert hub == ["sha0", "sha0"]


def test_what_is_there_needs_no_package(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(texts, "train", TEXTS["train"])
    whole = texts_of(fetch("hf:texts", 0.0, tmp_path, pytest.fail))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert texts_of(fetch("hf:texts", 1e-3, tmp_path, pytest.fail)) == whole
    monkeypatch.chdir(tmp_path / "..")  # where "texts" is something else
    with pytest.raises(UserError, match="--data hf:texts requires the package datasets: pip install datasets"):
        fetch("hf:texts", 1e-3, tmp_path, pytest.fail)


def test_a_stream_that_broke_off_continues(
    texts: Path, hub: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SHARD", 20000)
    write_split(texts, "train", MANY, files=8)
    sixth = texts / FOLDER / "train-00005-of-00008.jsonl"
    content = sixth.read_bytes()
    sixth.write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"hf:org/texts:train broke off after \d{4} texts: .*: run the command again"):
        fetch("hf:org/texts", 0.0, tmp_path, pytest.fail)
    sixth.write_bytes(content)
    (texts / FOLDER / "train-00000-of-00008.jsonl").write_text('{"text": "not counted again"}\n')
    assert texts_of(fetch("hf:org/texts", 0.0, tmp_path, pytest.fail)) == MANY
    assert len(hub) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from train.data import download
download.SHARD, write = 400, download._write

def killed(path, texts, limit, add):
    if path.name.endswith("-00003.jsonl.gz"):
        write(path, texts, limit, add)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, texts, limit, add)

download._write = killed
download.fetch("hf:texts", 0.0, Path(sys.argv[1]), print)
"""


def test_a_killed_download_continues(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(texts, "train", TEXTS["train"], files=3)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    sizes = list[int]()
    monkeypatch.setattr(downloads.Progress, "add", lambda _, size: sizes.append(size))
    assert texts_of(fetch("hf:texts", 0.0, tmp_path, pytest.fail)) == TEXTS["train"]
    assert 0 < sum(sizes) < sum(map(len, TEXTS["train"])) - 3 * 400


def test_what_was_changed_is_downloaded_again(texts: Path, tmp_path: Path) -> None:
    write_split(texts, "train", TEXTS["train"])
    fetch("hf:texts", 1e-3, tmp_path, pytest.fail)
    write_split(texts, "train", TEXTS["other"])
    said = list[str]()
    assert texts_of(fetch("hf:texts", 0.0, tmp_path, said.append)) == TEXTS["other"]
    assert said == ["--data hf:texts has changed, or the package datasets has: it is downloaded again"]


def test_damage_is_found(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SHARD", 400)
    write_split(texts, "train", TEXTS["train"])
    flags = DataFlags(data="hf:texts", data_megabytes=0.0, cache_dir=tmp_path / "cache", skip_unreadable=True)
    ((paths, _),) = fetch(flags.data, 0.0, flags.cache_dir, pytest.fail)
    flipped = bytearray(paths[1].read_bytes())
    flipped[len(flipped) // 2] ^= 8
    paths[1].write_bytes(flipped)
    with pytest.raises(UserError, match=rf"{paths[1]} is damaged: remove it, then run the command again"):
        load_tokens(flags, 300, say=[].append)
    paths[1].unlink()
    assert texts_of(fetch(flags.data, 0.0, flags.cache_dir, pytest.fail)) == TEXTS["train"]
    tokens = load_tokens(flags, 300, say=[].append)
    assert len(tokens.train) > len(tokens.held_out) > 0


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        ("hf:texts,default,test", lambda texts: None, "has the splits train: name that to train on"),
        (
            "hf:texts",
            lambda texts: write_lines(texts, {"words": "x"}),
            'texts:train:1 has no "text" string: it has words',
        ),
        ("hf:texts,en", lambda texts: None, "cannot be opened: .*en.* not found"),
        ("hf:texts", lambda texts: write_lines(texts), "cannot be opened: "),
    ],
)
def test_what_is_missing_is_named(
    data: str, change: Callable[[Path], None], message: str, texts: Path, tmp_path: Path
) -> None:
    write_split(texts, "train", TEXTS["train"])
    change(texts)
    with pytest.raises(UserError, match=message):
        fetch(data, 0.0, tmp_path, pytest.fail)


def write_lines(folder: Path, *rows: dict[str, Any]) -> None:
    """Write other rows as the only file."""
    (folder / FOLDER / "train-00000-of-00001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
