"""What a user gets wrong beside decoders to import: one sentence each, and nothing is written."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.foreign import write_foreign
from tests.train.foreign_encoders import write_encoder
from tests.train.small_run import Launcher
from train.__main__ import main


def failed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, and return its one sentence."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def changed(name: str, **settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def rewritten(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        shutil.rmtree(folder)
        write_encoder(folder, change=change)

    return rewrite


def with_another_tokenizer(folder: Path) -> None:
    other = write_encoder(folder.with_name("other"), "roberta")
    shutil.copy(other / "tokenizer.json", folder)
    shutil.rmtree(other)


ENCODERS = {
    "no settings": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "another shape": (changed("config.json", intermediate_size=32), "wrong shape: encoder.layer.0.intermediate.dense"),
    "another head": (changed("config.json", architectures=["BertForTokenClassification"]), "but encoders here end in"),
    "a head without weights": (
        changed("config.json", architectures=["BertForSequenceClassification"]),
        "missing: bert.pooler.dense.weight; missing: bert.pooler.dense.bias; missing: classifier.weight",
    ),
    "relative positions": (changed("config.json", position_embedding_type="relative_key"), "computes 'absolute' only"),
    "a missing tensor": (rewritten(lambda x: x.pop("embeddings.LayerNorm.bias")), "missing: embeddings.LayerNorm.bias"),
    "a surplus tensor": (rewritten(lambda x: x.update(extra=np.zeros(3, np.float32))), "unexpected: extra"),
    "cut short": (cut_short, "model.safetensors is damaged or cut short"),
    "another tokenizer": (with_another_tokenizer, "but the embedding has 70 rows: this is the tokenizer of another"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bad_encoder_is_not_imported(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = ENCODERS[name]
    source = write_encoder(tmp_path / "theirs")
    spoil(source)
    assert message in failed(["import", "--from", str(source), "--out", str(tmp_path / "ours")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


GOOD = [{"text": "a lamp", "label": 0}, {"text": "the old man", "label": 1}]
EXAMPLES = {
    "another label": ([*GOOD], [{"text": "a", "label": 2}], "has the label 2, which no text to train on has: 0, 1"),
    "an empty text": ([*GOOD, {"text": " ", "label": 1}], GOOD, "a.jsonl:3 has an empty text: remove it or"),
    "no label": ([*GOOD, {"text": "a"}], GOOD, "a.jsonl:3 has no label: it has text"),
    "no text": ([*GOOD, {"label": 1}], GOOD, 'a.jsonl:3 has no "text" string: it has label'),
    "one class": (GOOD[:1], GOOD[:1], "all texts to train on have the label 0: give at least two classes"),
    "nothing": ([], GOOD, "has too few texts"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_bad_examples_start_no_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, held_out, message = EXAMPLES[name]
    for file, rows in (("a", training), ("b", held_out)):
        (tmp_path / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = write_encoder(tmp_path / "theirs")
    assert main(["import", "--from", str(source), "--out", str(tmp_path / "ours")]) == 0
    words = ["--init-from", tmp_path / "ours", "--run-dir", tmp_path / "run", "--data", f"files:{tmp_path}/a.jsonl"]
    words += ["--held-out", f"files:{tmp_path}/b.jsonl"]
    assert message in failed(["finetune", *map(str, words)], capsys)
    assert not (tmp_path / "run").exists()


STORED = {
    "no settings": (lambda folder: (folder / "model.json").unlink(), "has no model.json: give the folder of a run"),
    "settings that are a list": (lambda folder: (folder / "model.json").write_text("[]"), "describes no model"),
    "a size that is text": (changed("model.json", hidden_size="big"), "describes no model"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "a broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is no tokenizer"),
    "no weights": (lambda folder: shutil.rmtree(folder / "checkpoints"), "has no checkpoint: train or import"),
}


@pytest.mark.parametrize("name", STORED)
def test_a_damaged_model_is_not_exported(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = STORED[name]
    source = write_foreign(tmp_path / "theirs")
    assert main(["import", "--from", str(source), "--out", str(tmp_path / "ours")]) == 0
    spoil(tmp_path / "ours")
    assert message in failed(["export", "--run-dir", str(tmp_path / "ours"), "--out", str(tmp_path / "x")], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_an_adapted_tokenizer_does_not_cut_what_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of a tokenizer may say to cut and pad; a prompt and a document are whole anyway."""
    source = write_foreign(tmp_path / "theirs")
    assert main(["import", "--from", str(source), "--out", str(tmp_path / "ours")]) == 0
    (tmp_path / "text.txt").write_text("the small house by the sea")
    counts = []
    for truncation in (None, {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}):
        changed("tokenizer.json", truncation=truncation)(tmp_path / "ours")
        words = ["--data", f"files:{tmp_path}/text.txt", "--json", str(tmp_path / "x.json")]
        assert main(["evaluate", "--run-dir", str(tmp_path / "ours"), *words]) == 0
        counts.append(json.loads((tmp_path / "x.json").read_text())["tokens"])
    assert counts[0] == counts[1] > 3


DEEP = "[" * 100_000


def test_json_that_is_nested_too_deeply_is_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a lamp"}\n{"text": ' + DEEP)
    (tmp_path / "b.json").write_text('[{"text": "a lamp"}, {"text": ' + DEEP)
    (tmp_path / "c.json").write_text('{"config": ' + DEEP)
    run = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    assert "a.jsonl:2 is not JSON" in failed(["pretrain", *run, "--data", f"files:{tmp_path}/a.jsonl"], capsys)
    assert "b.json is not JSON after 1 objects" in failed(["pretrain", *run, "--data", f"files:{tmp_path}/b.*"], capsys)
    assert "c.json is not JSON" in failed(["pretrain", *run, "--config", str(tmp_path / "c.json")], capsys)
    for name, kind in (("model.json", "describes no model"), ("tokenizer.json", "is no tokenizer")):
        folder = tmp_path / name.removesuffix(".json")
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoints"))
        (folder / name).write_text(DEEP)
        assert kind in failed(["sample", "--run-dir", str(folder)], capsys)
    assert "summary.json is damaged" in failed(spoilt_summary(trained, tmp_path / "summary"), capsys)
    source = write_encoder(tmp_path / "theirs")
    for name in ("modules.json", "model.safetensors.index.json", "config.json"):
        if "index" in name:
            (source / "model.safetensors").unlink()  # which is taken before an index
        (source / name).write_text(DEEP)
        words = ["import", "--from", str(source), "--out", str(tmp_path / "ours")]
        assert f"{name} is no" in failed(words, capsys)
        (source / name).unlink()


SURROGATES = "\udcff"  # Python's word for the byte 0xff, which is no UTF-8


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--run-dir", "{folder}", "--data", "files:/x/{bad}/*.txt"],
        ["pretrain", "--run-dir", "{folder}/{bad}"],
        ["pretrain", "--run-dir", "{folder}", "--sample-prompt", "{bad}"],
        ["compare", "--run-dir", "{folder}", "--optimizers", "adamw", "--cache-dir", "{bad}"],
        ["sample", "--run-dir", "{folder}", "--prompt", "a", "{bad}"],
        ["evaluate", "--run-dir", "{folder}", "--data", "files:{bad}"],
        ["plan", "--json", "{bad}"],
    ],
)
def test_a_word_that_is_not_utf8_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(folder=tmp_path, bad=SURROGATES) for word in words]
    assert "is not UTF-8: give a text or a path in this encoding" in failed(words, capsys)
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_folder_need_not_be_utf8(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which no word of the command line gives."""
    shutil.copytree(trained, tmp_path / SURROGATES, ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    monkeypatch.chdir(tmp_path / SURROGATES)
    assert main(["report", "--run-dir", "."]) == 0
    assert "<h1>\\udcff</h1>" in Path("report.html").read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("command", ["pretrain", "compare", "evaluate", "report"])
def test_a_full_disk_is_one_sentence(
    command: str,
    number: int,
    launcher: Launcher,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {
        "pretrain": launcher.arguments(tmp_path / "run", optimizer="adamw"),
        "compare": launcher.comparison(tmp_path / "run", "--optimizers", "adamw", "grassjump"),
        "evaluate": ["evaluate", "--run-dir", str(trained), "--json", str(tmp_path / "x.json")],
        "report": ["report", "--run-dir", str(trained)],
    }

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("train.system.files.make_durable", fail)
    error = failed(words[command], capsys)
    assert f"there is no room to write ({os.strerror(number)}): free some" in error


def spoilt_summary(run_dir: Path, copy: Path) -> list[str]:
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("checkpoints"))
    (copy / "summary.json").write_text(DEEP)
    return ["report", "--run-dir", str(copy)]
