"""The sample of a run is its last result: what it has no room for costs no other."""

import json
from pathlib import Path

import jax
import pytest

from tests.train.small_run import Launcher
from train.__main__ import main


def fail(*_: object) -> str:
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")


def test_a_sample_without_room_is_left_out_and_may_be_another_when_the_run_resumes(
    launcher: Launcher,
    compiled: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    sample, summary, report = (run_dir / name for name in ("sample.txt", "summary.json", "report.html"))
    monkeypatch.setattr("train.pretrain.sample.continued", fail)
    assert main(launcher.arguments(run_dir, optimizer="adamw", steps=2)) == 0
    (note,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert note == (
        "note: the sample does not fit into the memory of its device (RESOURCE_EXHAUSTED: Out of memory allocating 9 "
        "bytes). The results are without it."
    )
    assert json.loads(summary.read_text())["steps"] == 2
    assert not sample.exists()
    assert "<h2>Sample</h2>" not in report.read_text()
    monkeypatch.undo()
    summary.unlink()  # as if the run had ended there
    resume = ["pretrain", "--run-dir", str(run_dir), "--resume"]
    assert main([*resume, "--sample-tokens", "4", "--sample-prompt", "import "]) == 0
    assert sample.read_text().startswith("import ")
    assert "<h2>Sample</h2><pre>import " in report.read_text()
    stored = json.loads((run_dir / "config.json").read_text())["config"]["report"]
    assert (stored["sample_tokens"], stored["sample_prompt"]) == (4, "import ")
    assert main([*resume, "--steps", "3", "--sample-tokens", "0"]) == 0
    assert json.loads(summary.read_text())["steps"] == 3
    assert not sample.exists()
    assert "<h2>Sample</h2>" not in report.read_text()
