"""Data sets of Hugging Face, with a stand-in for the package that has its interface."""

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from train.config.run import UserError
from train.data.corpus import documents, survey
from train.data.sources import open_source

TEXTS = {name: [{"text": f"{name} {i} " * 9} for i in range(20)] for name in ("train", "validation", "other")}


class Rows:
    """A split, read from its beginning each time."""

    def __init__(self, rows: list[dict[str, Any]], breaks_after: int | None = None) -> None:
        self.rows, self.breaks_after = rows, breaks_after

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.rows[: self.breaks_after]
        if self.breaks_after is not None:
            raise ConnectionError("no network")


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Rows]:
    found: dict[str, Rows] = {}

    def load_dataset(name: str, config: str | None, *, streaming: bool) -> dict[str, Rows]:
        assert (name, config, streaming) in (("texts", "en", True), ("texts", None, True))
        return found

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return found


def fail(error: Exception, _: object) -> None:
    raise error


def sides(data: str) -> tuple[set[str], set[str]]:
    """The splits that the documents of either side come from."""
    source, names = open_source(data, 0.0), []
    plan, sample = survey(source, 0.0, fail, lambda _: None)
    for part in source.parts():
        names += [document.name for document in part if list(document.pieces)]
    found: tuple[set[str], set[str]] = (set(), set())
    for name, is_held_out, is_kept in zip(names, plan.is_held_out, plan.is_kept, strict=True):
        if is_kept:
            found[int(is_held_out)].add(name.split(":")[1])
    return found


def test_the_validation_split_is_held_out(splits: dict[str, Rows]) -> None:
    splits.update({name: Rows(rows) for name, rows in TEXTS.items()})
    assert sides("hf:texts,en") == ({"train"}, {"validation"})
    assert sides("hf:texts,,other") == ({"other"}, {"validation"})
    splits["train"].rows += TEXTS["validation"]  # texts of both are held out only
    assert sides("hf:texts") == ({"train"}, {"validation"})


def test_without_one_a_part_is_held_out(splits: dict[str, Rows]) -> None:
    splits["all"] = Rows(TEXTS["train"])
    assert sides("hf:texts,en") == ({"all"}, {"all"})


def test_a_limit_holds_for_both_sides(splits: dict[str, Rows]) -> None:
    splits.update({name: Rows(rows) for name, rows in TEXTS.items()})
    plan, _ = survey(open_source("hf:texts", 1e-3), 1e-3, fail, lambda _: None)
    assert plan.sizes[plan.is_held_out].sum() == 50
    assert plan.sizes[~plan.is_held_out].sum() == 1000


def test_an_evaluation_reads_the_split_that_is_named(splits: dict[str, Rows]) -> None:
    splits.update({name: Rows(rows) for name, rows in TEXTS.items()})
    for split in ("train", "validation"):
        found = list(documents(open_source(f"hf:texts,en,{split}", 0.0), 0.0))
        assert found == [row["text"] for row in TEXTS[split]]


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        ("hf:texts,en,test", lambda splits: None, "has the splits train: name that to train on"),
        ("hf:texts", lambda splits: splits.update(train=Rows([{"words": "x"}])), 'texts:train:1 has no "text" string'),
        (
            "hf:texts",
            lambda splits: splits.update(train=Rows(TEXTS["train"], 3)),
            "broke off after 3 texts: no network",
        ),
    ],
)
def test_what_is_missing_is_named(
    data: str, change: Callable[[dict[str, Rows]], None], message: str, splits: dict[str, Rows]
) -> None:
    splits["train"] = Rows(TEXTS["train"])
    change(splits)
    with pytest.raises(UserError, match=message):
        list(documents(open_source(data, 0.0), 0.0))


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="--data hf:texts requires the package datasets: pip install datasets"):
        list(documents(open_source("hf:texts", 0.0), 0.0))
