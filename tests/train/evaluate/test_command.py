"""Loss and bits per byte of a text, by hand and by the run itself."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.foreign import BEGIN
from tests.train.small_run import write_texts
from train.__main__ import main
from train.data.tokens import load_tokens
from train.storage.folder import RunFolder
from train.storage.loaded import load_model
from train.storage.metrics import read_rows

TEXTS = {"a": "A lamp was lit in the small house by the sea.", "b": "Der Mann las: ‚ä, ö, ü‘", "c": "read aloud " * 20}


def evaluated(tmp_path: Path, run_dir: Path, *words: str) -> dict[str, Any]:
    path = tmp_path / "result.json"
    assert main(["evaluate", "--run-dir", str(run_dir), "--json", str(path), *words]) == 0
    result: dict[str, Any] = json.loads(path.read_text())
    return result


@pytest.mark.parametrize("words", [(), ("--batch-size", "5")], ids=["as the run", "in other batches"])
def test_the_own_text_of_a_run_gives_its_last_evaluation(trained: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    result = evaluated(tmp_path, trained, *words)
    (expected,) = (row for row in read_rows(RunFolder(trained).metrics) if row["step"] == 12 and "eval_loss" in row)
    assert result["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
    assert result["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=1e-6)
    assert result["tokens"] == 3 * 2 * 16
    assert result["step"] == 12


def test_all_of_the_own_text_can_be_evaluated(trained: Path, tmp_path: Path) -> None:
    config = RunFolder(trained).stored().config
    held_out = load_tokens(config.data, config.model.vocab_size).held_out
    result = evaluated(tmp_path, trained, "--eval-batches", "0", "--batch-size", "64")
    windows = (len(held_out) - 1) // 16
    assert result["tokens"] == 16 * windows
    assert result["text"] == f"held-out text of the run, {windows:,} of its {windows:,} windows of 16 tokens"


def test_each_checkpoint_can_be_evaluated(trained: Path, tmp_path: Path) -> None:
    newest, older = evaluated(tmp_path, trained), evaluated(tmp_path, trained, "--step", "10")
    assert older["step"] == 10
    assert older["eval_loss"] != newest["eval_loss"]


@pytest.mark.parametrize("seq_len", [7, pytest.param(200, marks=pytest.mark.long)])
def test_documents_are_evaluated_as_by_hand(seq_len: int, imported: Path, tmp_path: Path) -> None:
    data = write_texts(tmp_path, **TEXTS)
    result = evaluated(tmp_path, imported, "--data", data, "--seq-len", str(seq_len), "--batch-size", "3")
    model = load_model(imported, None, None)
    tokenizer, end = model.stored.tokenizer, model.stored.end_of_text
    nats, count = 0.0, 0
    for text in TEXTS.values():
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokens = np.asarray([tokenizer.token_to_id(BEGIN), *plain, end])
        for start in range(0, len(tokens) - 1, seq_len):
            window = jnp.asarray(tokens[start : start + seq_len + 1])
            losses = optax.softmax_cross_entropy_with_integer_labels(model.llama(window[None, :-1])[0], window[1:])
            nats, count = nats + float(losses.sum()), count + losses.size
    size = sum(len(text.encode()) for text in TEXTS.values())
    assert (result["tokens"], result["bytes"]) == (count, size)
    assert result["eval_loss"] == pytest.approx(nats / count, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(nats / (math.log(2) * size), rel=1e-5)


def test_the_batch_changes_nothing(trained: Path, tmp_path: Path) -> None:
    data = write_texts(tmp_path, **TEXTS)
    results = [evaluated(tmp_path, trained, "--data", data, "--batch-size", size) for size in ("1", "64")]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], rel=1e-6)
    assert results[0]["tokens"] == results[1]["tokens"]


def test_a_loss_that_is_not_finite_is_null_and_has_the_status_of_a_run_that_diverged(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def losses(windows: np.ndarray) -> np.ndarray:
        return np.full_like(windows[:, 1:], np.nan, dtype=np.float32)

    monkeypatch.setattr("train.evaluate.command._losses", lambda *_: losses)
    assert main(["evaluate", "--run-dir", str(trained), "--json", str(tmp_path / "result.json")]) == 3
    result = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert (result["eval_loss"], result["bits_per_byte"], result["step"]) == (None, None, 12)
    output = capsys.readouterr()
    assert "eval_loss  nan" in output.out
    assert f"the loss of the model of --run-dir {trained} at step 12 is not finite" in output.err


def test_a_table_is_printed_and_nothing_is_written(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_texts(tmp_path, **TEXTS)
    before = sorted(path for path in [*imported.rglob("*"), *tmp_path.rglob("*")])
    assert main(["evaluate", "--run-dir", str(imported), "--data", data]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["run_dir", "step", "text", "tokens", "bytes", "eval_loss", "bits_per_byte"]
    assert lines["text"] == f"3 documents of {data}, windows of 32 tokens"
    assert sorted(path for path in [*imported.rglob("*"), *tmp_path.rglob("*")]) == before


MISTAKES = [
    ("--step -2", "--step -2 must be at least 0"),
    ("--batch-size 0", "--batch-size 0 must be at least 1"),
    ("--data files:x --seq-len 0", "--seq-len 0 must be at least 1"),
    ("--data files:x --data-megabytes -1", "--data-megabytes -1.0 must be at least 0"),
    ("--data files:x --data-megabytes nan", "--data-megabytes nan must be a finite number"),
    ("--data wikipedia", "--data wikipedia must be stdlib, hf:NAME or files:GLOB"),
    ("--data-megabytes 3", "--data-megabytes 3.0 has no effect without --data: leave it out"),
    ("--seq-len 8", "--seq-len 8 has no effect without --data, as the run's windows are used: leave it out"),
    ("--data hf:a/b,en", "--data hf:a/b,en names no split: give hf:NAME,CONFIG,SPLIT or hf:NAME,,SPLIT"),
    ("--data files:x --eval-batches 3", "--eval-batches 3 has no effect with --data: leave it out"),
    ("--eval-batches -1", "--eval-batches -1 must be at least 0"),
    ("--json nowhere/x.json", "--json nowhere/x.json cannot be written"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported_before_anything_is_read(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--run-dir", "nowhere", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "is an import, which has no held-out text of its own: give --data files:GLOB"),
        ("--data files:/nonexistent/*.txt", "files:/nonexistent/*.txt matches no file"),
        ("--data stdlib --data-megabytes 0.1 --step 3", "has no checkpoint of step 3: it has 0"),
    ],
)
def test_what_is_missing_is_named(words: str, message: str, imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run-dir", str(imported), *words.split()]) == 2
    assert message in capsys.readouterr().err
