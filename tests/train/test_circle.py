"""A run is trained, exported and imported again: the same text, and the same loss."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.train.small_run import Launcher
from train.__main__ import main

HAS_TRANSFORMERS = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def test_a_model_goes_full_circle(
    trained: Path, launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    verify = ["--verify"] if HAS_TRANSFORMERS else []
    assert main(["export", "--run-dir", str(trained), "--out", str(theirs), *verify]) == 0
    assert main(["import", "--from", str(theirs), "--out", str(ours)]) == 0

    texts = []
    for run_dir, step in ((trained, 12), (ours, 0)):
        capsys.readouterr()
        assert main(["sample", "--run-dir", str(run_dir), "--prompt", "def ", "", "--tokens", "20"]) == 0
        texts.append(capsys.readouterr().out.replace(f"sample of step {step}\n", ""))
    assert texts[0] == texts[1]

    results = []
    for run_dir in (trained, ours):
        words = ["--data", f"files:{launcher.corpus}/json/*.py", "--batch-size", "4", "--seq-len", "16"]
        path = tmp_path / "result.json"
        assert main(["evaluate", "--run-dir", str(run_dir), "--json", str(path), *words]) == 0
        results.append(json.loads(path.read_text()))
    names = ("tokens", "bytes", "eval_loss", "bits_per_byte")
    assert [results[0][name] for name in names] == [results[1][name] for name in names]

    assert main(["evaluate", "--run-dir", str(trained), "--json", str(path)]) == 0
    summary = json.loads((trained / "summary.json").read_text())
    for name in ("eval_loss", "bits_per_byte"):
        assert json.loads(path.read_text())[name] == pytest.approx(summary[name], rel=1e-6)
