"""What is downloaded of a data set: once, at one revision, and on from where it was interrupted.

The hub is a folder, read by the package `datasets`.
"""

import errno
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from tests.train.data.test_hub import COUNT, TEXTS, write_split
from train.config.run import DataFlags, UserError
from train.data import download
from train.data.corpus import documents, survey
from train.data.download import SplitFiles, fetch
from train.data.hub import DatasetName
from train.data.progress import Progress
from train.data.sources import open_source
from train.data.tokens import load_tokens
from train.system.files import locked

NAME = "hf:org/texts"
MANY = [f"{i} or so" for i in range(8000)]  # in eight files, of which the package reads the last one or two again
ALL = sum(map(len, TEXTS["train"]))


class Hub:
    """A data set of the hub: its folder, the revisions that were asked for, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.revisions, self.said, self.newest = folder, list[str](), list[str](), "sha0"

    def fetch(self, megabytes: float, data: str = NAME) -> list[str]:
        """The texts of a download, the validation split first."""
        return texts_of(self.files(megabytes, data))

    def files(self, megabytes: float, data: str = NAME) -> list[SplitFiles]:
        name = DatasetName.of(data)
        return fetch(name, name.sides, megabytes, self.cache_dir, self.said.append)

    @property
    def cache_dir(self) -> Path:
        return self.folder.parent / "cache"

    @property
    def record(self) -> Path:
        (path,) = self.cache_dir.glob("downloads/*/record.json")
        return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub, load = Hub(tmp_path / "texts"), datasets.load_dataset

    def load_dataset(name: str, config: str | None, *, revision: str, streaming: bool) -> Any:
        assert name == "org/texts"
        hub.revisions.append(revision)
        return load(str(hub.folder), config, streaming=streaming)

    def dataset_info(_: object, name: str, revision: str | None) -> SimpleNamespace:
        assert name == "org/texts"
        return SimpleNamespace(sha=f"exactly-{revision}" if revision else hub.newest)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return hub


def texts_of(splits: list[SplitFiles]) -> list[str]:
    files = (gzip.decompress(path.read_bytes()).decode() for split in splits for path in split.paths)
    return [json.loads(line)["text"] for file in files for line in file.split("\n")[:-1]]


def write_all(hub: Hub) -> None:
    for split, rows in TEXTS.items():
        write_split(hub.folder, split, rows)


def test_a_limit_holds_for_both_sides_whatever_is_on_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SHARD", 40)  # one or two texts
    write_split(hub.folder, "train", TEXTS["train"] * 9)
    write_split(hub.folder, "validation", [f"held out {i}" for i in range(COUNT)])
    plans = []
    for already in (0.0, 1e-3):
        hub.fetch(already)
        source = open_source(NAME, 1e-3, hub.cache_dir, hub.said.append)
        plans.append(survey(source, 1e-3, lambda error, _: pytest.fail(str(error)), lambda _: None)[0])
        for path in hub.record.parent.iterdir():
            path.unlink()
    for plan in plans:
        assert plan.sizes[plan.is_held_out].sum() == 50
        assert plan.sizes[~plan.is_held_out].sum() == 1000
        assert list(plan.identity()) == list(plans[0].identity())


def test_more_text_continues_at_the_same_revision(hub: Hub) -> None:
    write_split(hub.folder, "train", MANY, files=8)
    first = hub.fetch(0.04)
    assert first == MANY[: len(first)]
    assert 40000 <= sum(map(len, first)) < 40000 + len(MANY[-1])
    (hub.folder / "data" / "train-00000-of-00008.jsonl").write_text('{"text": "not counted again"}\n')
    hub.newest = "sha1"
    for megabytes in (0.05, 0.06, 0.0):
        more = hub.fetch(megabytes)
        assert more == MANY[: len(more)]
    assert more == MANY
    assert hub.revisions == ["sha0"] * 4


def test_a_revision_can_be_named(hub: Hub) -> None:
    write_all(hub)
    assert hub.fetch(0.0, f"{NAME}@v1") == TEXTS["validation"] + TEXTS["train"]
    assert hub.revisions == ["exactly-v1"]
    assert hub.fetch(0.0) == TEXTS["validation"] + TEXTS["train"]
    assert len(list(hub.cache_dir.glob("downloads/org-texts-*"))) == 2


def test_a_split_is_downloaded_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(hub)
    assert hub.fetch(0.0) == TEXTS["validation"] + TEXTS["train"]
    assert hub.fetch(0.0, f"{NAME},,other") == TEXTS["validation"] + TEXTS["other"]
    assert len(hub.revisions) == 2
    monkeypatch.setitem(sys.modules, "datasets", None)  # and nothing more is needed
    assert hub.fetch(0.0, f"{NAME},,train") == TEXTS["validation"] + TEXTS["train"]
    files = sorted(path.name for path in hub.record.parent.glob("*.gz"))
    assert files == [f"{split}-00000.jsonl.gz" for split in ("other", "train", "validation")]


def test_a_stream_that_broke_off_continues(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SHARD", 20000)
    write_split(hub.folder, "train", MANY, files=8)
    sixth = hub.folder / "data" / "train-00005-of-00008.jsonl"
    content = sixth.read_bytes()
    sixth.write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"hf:org/texts:train broke off after \d{4} rows: .*: run the command again"):
        hub.fetch(0.0)
    sixth.write_bytes(content)
    (hub.folder / "data" / "train-00000-of-00008.jsonl").write_text('{"text": "not counted again"}\n')
    assert hub.fetch(0.0) == MANY


KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
import datasets, huggingface_hub
from train.data import download, hub

folder, cache_dir, load, texts = *sys.argv[1:], datasets.load_dataset, hub.Stream.texts
download.SHARD = 400
datasets.load_dataset = lambda *_, **__: load(folder, streaming=True)
huggingface_hub.HfApi.dataset_info = lambda *_, **__: SimpleNamespace(sha="sha0")

def killed(self):
    for text in texts(self):
        if self.rows == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        yield text

hub.Stream.texts = killed
name = hub.DatasetName.of("hf:org/texts")
download.fetch(name, name.sides, 0.0, Path(cache_dir), print)
"""


def test_a_killed_download_continues(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(hub.folder, "train", TEXTS["train"], files=3)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    program = [sys.executable, "-c", KILLED, str(hub.folder), str(hub.cache_dir)]
    ended = subprocess.run(program, env=environment, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len({path.name for path in hub.record.parent.glob("*.gz")} - {*names_in(hub.record)}) == 1
    sizes = list[int]()
    monkeypatch.setattr(Progress, "add", lambda _, size: sizes.append(size))
    assert hub.fetch(0.0) == TEXTS["train"]
    assert 0 < sum(sizes) < ALL / 2


def names_in(record: Path) -> Iterator[str]:
    """The files that a record names."""
    for split in json.loads(record.read_text())["splits"].values():
        yield from (shard["name"] for shard in split["shards"])


def test_a_shard_ends_in_time(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SECONDS", -1.0)
    write_split(hub.folder, "train", TEXTS["train"])
    assert hub.fetch(0.0) == TEXTS["train"]
    assert len([*names_in(hub.record)]) == COUNT


def test_a_full_disk_is_named_and_continues(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SHARD", 400)
    write_split(hub.folder, "train", TEXTS["train"])
    flush = download.make_durable

    def full(descriptor: int) -> None:
        if len(list(hub.cache_dir.rglob("*.gz"))) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(download, "make_durable", full)
    with pytest.raises(UserError, match=r"there is no room for .*org-texts-.*: free some and run the command again"):
        hub.fetch(0.0)
    assert {path.name for path in hub.record.parent.glob("*.gz")} == {*names_in(hub.record)}
    monkeypatch.setattr(download, "make_durable", flush)
    sizes = list[int]()
    monkeypatch.setattr(Progress, "add", lambda _, size: sizes.append(size))
    assert hub.fetch(0.0) == TEXTS["train"]
    assert 0 < sum(sizes) < ALL


def test_damage_is_found(hub: Hub) -> None:
    texts, draw = [" ".join(random.Random(i).choices(TEXTS["train"], k=9)) for i in range(2000)], random.Random(0)
    write_split(hub.folder, "train", texts)
    flags = DataFlags(data=NAME, data_megabytes=0.0, cache_dir=hub.cache_dir)
    ((path,), _) = hub.files(0.0)[0]
    content = path.read_bytes()
    for _ in range(20):  # found by gzip at its end, or before that as no JSON or no UTF-8
        flipped = bytearray(content)
        flipped[draw.randrange(20, len(flipped))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=rf"{path}, which was downloaded, is damaged: remove it, then run the com"):
            load_tokens(flags, 300, say=hub.said.append)
    path.unlink()
    tokens = load_tokens(flags, 300, say=hub.said.append)
    assert len(tokens.train) > len(tokens.held_out) > 0
    assert hub.fetch(0.0) == texts


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_what_follows_a_missing_file_is_downloaded_again(
    spoil: Callable[[Path], object], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SHARD", 400)
    write_split(hub.folder, "train", TEXTS["train"])
    (split,) = hub.files(0.0)
    assert len(split.paths) > 3
    kept = split.paths[0].stat()
    spoil(split.paths[1])
    hub.newest = "sha1"
    assert hub.fetch(0.0) == TEXTS["train"]
    assert hub.revisions == ["sha0", "sha0"]
    assert split.paths[0].stat().st_mtime_ns == kept.st_mtime_ns


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"splits": {"train": 3}}'])
def test_a_damaged_record_is_said(content: str, hub: Hub) -> None:
    write_all(hub)
    hub.fetch(1e-3)
    hub.record.write_text(content)
    assert hub.fetch(0.0) == TEXTS["validation"] + TEXTS["train"]
    assert hub.said == [f"{hub.record} is damaged: the data set is downloaded again, at the revision of now"]


def test_a_record_that_cannot_be_read_stays(hub: Hub) -> None:
    write_all(hub)
    hub.fetch(1e-3)
    (record := hub.record).unlink()
    record.mkdir()
    with pytest.raises(UserError, match=r"record.json cannot be read \(Is a directory\): make it readable"):
        hub.fetch(0.0)


def test_texts_may_be_empty(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SECONDS", -1.0)  # a shard for each row
    rows = ["a", "", "b", None, "c", "d"]
    write_split(hub.folder, "train", rows)
    hub.fetch(2e-6)
    assert hub.fetch(0.0) == [row for row in rows if row is not None]


def test_rows_without_text_are_counted(hub: Hub) -> None:
    write_split(hub.folder, "train", ["a", None, "b"])
    assert hub.fetch(0.0) == ["a", "b"]
    assert hub.said == ["rows of train without text, which were left out: 1"]


def test_others_can_use_the_cache_meanwhile(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(hub)
    sizes, flags = list[int](), DataFlags(data=NAME, data_megabytes=0.0, cache_dir=hub.cache_dir)

    class Watched(Progress):
        def add(self, size: int) -> None:
            with locked(hub.cache_dir, "it is locked"):
                sizes.append(size)

    monkeypatch.setattr(download, "Progress", Watched)
    before = load_tokens(flags, 300, say=hub.said.append).fingerprint
    assert len(sizes) == 2 * COUNT
    shutil.rmtree(hub.record.parent)
    shutil.rmtree(hub.cache_dir / before)  # of which there is still a note
    assert load_tokens(flags, 300, say=hub.said.append).fingerprint == before
    assert len(sizes) == 4 * COUNT


def test_what_is_there_is_used_while_others_download_more(hub: Hub) -> None:
    write_all(hub)
    hub.fetch(1e-3)
    with locked(hub.record.parent, "it is locked"):  # as another process would
        assert hub.fetch(1e-3)
        assert list(documents(open_source(f"{NAME},,train", 1e-3, hub.cache_dir, hub.said.append), 1e-3))


def test_an_evaluation_downloads_its_split_alone(hub: Hub) -> None:
    write_all(hub)
    source = open_source(f"{NAME},,validation", 0.0, hub.cache_dir, hub.said.append, is_alone=True)
    assert list(documents(source, 0.0)) == TEXTS["validation"]
    source = open_source(f"{NAME},,other", 0.0, hub.cache_dir, hub.said.append, is_alone=True)
    assert list(documents(source, 0.0)) == TEXTS["other"]
    assert {*names_in(hub.record)} == {"validation-00000.jsonl.gz", "other-00000.jsonl.gz"}
