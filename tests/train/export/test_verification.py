"""Transformers loads what was exported, and computes the same; what differs is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from models.config import RopeScaling
from tests.train.foreign import NETWORK, write_foreign
from train.__main__ import main
from train.export import verification

REASON = "parity with Hugging Face needs PyTorch: pip install '.[parity]'"
pytest.importorskip("torch", reason=REASON)
pytest.importorskip("transformers", reason=REASON)

NETWORKS = {
    "llama": NETWORK,
    "qwen2": dataclasses.replace(NETWORK, qkv_bias=True, tied_head=True),
    "llama3": dataclasses.replace(
        NETWORK, rope_scaling=RopeScaling(kind="llama3", factor=4.0, high_freq_factor=3.0, original_positions=16)
    ),
}


def verified(run_dir: Path, out: Path) -> int:
    return main(["export", "--run-dir", str(run_dir), "--out", str(out), "--verify"])


def test_a_run_is_verified(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(trained, tmp_path / "x") == 0
    shown = capsys.readouterr().out
    assert "verified with Transformers, in float32: logits of 16 tokens (they differ by " in shown
    assert "32 greedy tokens (equal), the tokens of a text (equal)" in shown
    assert (tmp_path / "x" / "model.safetensors").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_import_is_verified(name: str, tmp_path: Path) -> None:
    theirs = write_foreign(tmp_path / "theirs", NETWORKS[name], dtype=np.float16)
    assert main(["import", "--from", str(theirs), "--out", str(tmp_path / "ours")]) == 0
    assert verified(tmp_path / "ours", tmp_path / "x") == 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("logits", "logits of Transformers differ by"),
        ("token", "greedy token 32 of 32 is"),
        ("tokenizer", "the tokenizer of Transformers encodes"),
    ],
)
def test_a_difference_is_refused_and_nothing_is_written(
    what: str,
    message: str,
    imported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Other(verification.Theirs):
        def continued(self, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits, tokens = super().continued(prompt)
            if what == "token":
                tokens[-1] += 1
            return logits * (1.01 if what == "logits" else 1.0), tokens

        def encoded(self, text: str) -> list[int]:
            return super().encoded(text)[what == "tokenizer" :]

    monkeypatch.setattr(verification, "Theirs", Other)
    assert verified(imported, tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert f"--verify failed: {message}" in error
    assert "Nothing was exported" in error
    assert list(tmp_path.iterdir()) == []
