"""Fine-tuning runs of encoders: classes and numbers are learnt, and the head is new."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.small_run import known_to, words_of
from train.__main__ import main
from train.storage.model import read_model

SMALL = {
    "batch_size": 4,
    "rank": 4,
    "epochs": 8,
    "learning_rate": 1e-2,
    "adam_learning_rate": 1e-2,
    "update_proj_gap": 5,
}


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"files:{folder}/rows.jsonl"


def texts(label: Any) -> list[dict[str, Any]]:
    """Sixty texts whose label is that of the first word."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(60):
        first = ("good", "bad", "fine")[i % 3]
        rest = " ".join(draw.choice(["film", "a"], draw.integers(1, 5)))
        rows.append({"text": f"{first} {rest}", "label": label[first]})
    return rows


def run(encoder: Path, tmp_path: Path, rows: list[dict[str, Any]], *words: str) -> dict[str, Any]:
    arguments = ["--init-from", str(encoder), "--data", write(tmp_path, rows), "--run-dir", str(tmp_path / "run")]
    optimizer = words[words.index("--optimizer") + 1] if "--optimizer" in words else "grassjump"
    assert main(["finetune", *arguments, *words_of(known_to(optimizer, SMALL)), *words]) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    return summary


def test_classes_are_learnt_and_named(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = texts({"good": "up", "bad": "down", "fine": "flat"})
    summary = run(encoder, tmp_path, rows, "--held-out", write(tmp_path, rows))
    assert summary["accuracy"] == summary["f1"] == summary["matthews"] == 1
    model = read_model(tmp_path / "run")
    assert model.settings["id2label"] == {"0": "down", "1": "flat", "2": "up"}
    assert model.architecture.num_labels == 3
    said = capsys.readouterr().out
    assert "60 texts to train on, 60 held out (down: 20 and 20, flat: 20 and 20, up: 20 and 20)" in said
    assert "accuracy 1.0000" in said


def test_weights_in_8_bits_are_refused(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, texts({"good": 0, "bad": 1, "fine": 1}))
    words = ("--init-from", encoder, "--data", data, "--run-dir", tmp_path / "run", "--task", "classification")
    assert main(["finetune", *map(str, words), "--weights", "int8"]) == 2
    assert "error: --weights int8 is for language models: leave it out" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.long
def test_numbers_are_learnt(encoder: Path, tmp_path: Path) -> None:
    rows = texts({"good": 1.0, "bad": -1.0, "fine": 0.2})
    summary = run(encoder, tmp_path, rows, "--task", "regression", "--held-out", write(tmp_path, rows))
    assert summary["eval_loss"] < 0.1
    assert summary["pearson"] > 0.9
    assert read_model(tmp_path / "run").architecture.num_labels == 1


def test_a_frozen_encoder_trains_its_head_alone(encoder: Path, tmp_path: Path) -> None:
    rows = texts({"good": 0, "bad": 1, "fine": 1})
    summary = run(
        encoder,
        tmp_path,
        rows,
        "--optimizer",
        "adamw",
        "--scale",
        "1",
        "--freeze",
        "embed*",
        "positions/*",
        "types/*",
        "layers/*",
    )
    head = 16 * 16 + 16 + 16 * 2 + 2
    assert summary["optimizer_bytes"] == pytest.approx(2 * 4 * head, abs=64)  # and counts


@pytest.mark.long
def test_lora_trains_factors_and_the_head(encoder: Path, tmp_path: Path) -> None:
    rows = texts({"good": 0, "bad": 1, "fine": 1})
    summary = run(encoder, tmp_path, rows, "--optimizer", "lora", "--scale", "2", "--held-out", write(tmp_path, rows))
    assert summary["accuracy"] == 1
