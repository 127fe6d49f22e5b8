"""Comparisons of fine-tuning: of an encoder, killed on its way, and of a language model."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.train.compare.test_command import rows, wait_for
from tests.train.finetune.test_labelling import texts, write
from tests.train.small_run import ROOT, Launcher
from train.storage.folder import RunFolder

SMALL = "--batch-size 4 --rank 4 --update-proj-gap 3 --save-every 3 --sweep learning_rate=1e-2"
OPTIMIZERS = ("adamw", "grassjump")
NAMES = {"adamw": "adamw-lr0.01-scale1-seed{}", "grassjump": "grassjump-lr0.01-scale2-seed{}"}


def arguments(start: Path, data: str, run_dir: Path, words: str) -> list[str]:
    line = ["--init-from", str(start), "--data", data, "--run-dir", str(run_dir), "--optimizers", *OPTIMIZERS]
    return ["compare-finetune", *line, *SMALL.split(), *words.split()]


@pytest.mark.long
def test_seeds_of_an_encoder_are_compared_after_a_kill(
    encoder: Path, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # not worth it for so few steps
    data = write(tmp_path, texts({"good": "up", "bad": "down", "fine": "flat"}))
    run_dir, second = tmp_path / "runs", NAMES["grassjump"].format(4)
    line = arguments(encoder, data, run_dir, f"--held-out {data} --epochs 4 --seeds 4 5")
    process = launcher.start(line)
    wait_for(process, lambda: (run_dir / second / "config.json").exists())
    process.kill()
    process.communicate()
    # The run in progress is a separate process and continues.
    deadline = time.monotonic() + 200
    while not (run_dir / second / "summary.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done = {path: path.stat().st_mtime_ns for path in run_dir.glob("*/summary.json")}
    assert len(done) == 2
    output = launcher.finish(line)
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
    assert re.findall(r"^\[(\d)/4\] (\S+): starts$", output, re.M) == [
        ("3", NAMES["adamw"].format(5)),
        ("4", NAMES["grassjump"].format(5)),
    ]

    accuracies = {}
    for name in OPTIMIZERS:
        summaries = [json.loads((run_dir / NAMES[name].format(x) / "summary.json").read_text()) for x in (4, 5)]
        accuracies[name] = [summary["accuracy"] for summary in summaries]
        assert f"{np.mean(accuracies[name]):.4f} ± {np.std(accuracies[name], ddof=1):.4f}" in output
        assert f"| {summaries[0]['optimizer_bytes']:,} | - |" in output
    content = json.loads((run_dir / "compare.json").read_text())
    gains = np.subtract(accuracies["grassjump"], accuracies["adamw"])
    assert content["seeds"]["grassjump"]["differences"] == pytest.approx({"4": gains[0], "5": gains[1]})
    assert "rank 4, on cpu; at learning rates 0.01." in output
    for seed in (4, 5):  # the head of a seed is the same for all
        first = [rows(run_dir / NAMES[name].format(seed))[0] for name in OPTIMIZERS]
        assert first[0] == first[1]
    assert rows(run_dir / NAMES["adamw"].format(4))[0] != rows(run_dir / NAMES["adamw"].format(5))[0]
    assert all((run_dir / NAMES[name].format(5) / "checkpoints").is_dir() for name in OPTIMIZERS)


@pytest.mark.long
def test_optimizers_are_compared_on_a_language_model(trained: Path, launcher: Launcher, tmp_path: Path) -> None:
    examples = [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a in range(5) for b in range(5)]
    line = arguments(trained, write(tmp_path, examples), tmp_path / "runs", "--steps 6 --seq-len 24 --eval-every 3")
    output = launcher.finish(line)
    found = {name: rows(tmp_path / "runs" / NAMES[name].format(0)) for name in OPTIMIZERS}
    assert found["adamw"][0] == found["grassjump"][0]  # the same weights and examples
    for name, metrics in found.items():
        assert metrics[-1]["eval_loss"] < metrics[0]["eval_loss"]
        assert re.search(rf"^\| {name} \| 0.01 \| [12] \| {metrics[-1]['eval_loss']:.4f} \| ", output, re.M)
        start = RunFolder(tmp_path / "runs" / NAMES[name].format(0)).stored().config.start  # type: ignore[union-attr]
        assert start.init_step == 12
    assert launcher.finish(line).count("starts") == 0


def test_a_comparison_leaves_jax_to_its_runs(encoder: Path, tmp_path: Path) -> None:
    """A GPU's memory would belong to this process, and not to its children."""
    script = (
        "import sys\n"
        "from jax._src import xla_bridge\n"
        "from train.compare import command\n"
        "from train.__main__ import main\n"
        "command.run_child = lambda *_: sys.exit(7 if xla_bridge._backends else 5)\n"
        "main(sys.argv[1:])\n"
    )
    data = write(tmp_path, texts({"good": 0, "bad": 1, "fine": 1}))
    line = arguments(encoder, data, tmp_path / "runs", "--seeds 0 1")
    process = subprocess.run([sys.executable, "-c", script, *line], cwd=ROOT, timeout=200, check=False)
    assert process.returncode == 5
