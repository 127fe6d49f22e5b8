"""A real comparison, stopped and killed on its way: all runs start alike, and nothing is lost."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.train.small_run import ROOT, STEPS, Launcher
from train.__main__ import main
from train.config.optimizers import OPTIMIZERS

SWEEP = ("--optimizers", "adamw", "--sweep", "learning_rate=1e37,1e-3")
WORDS = ("--optimizers", "adamw", "grassjump", "--sweep", "learning_rate=1e-3")
DIVERGED, ADAMW, GRASSJUMP = (
    "adamw-lr1e+37-scale1-seed0",
    "adamw-lr0.001-scale1-seed0",
    "grassjump-lr0.001-scale0.25-seed0",
)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def wait_for(process: subprocess.Popen[str], happened: Callable[[], object]) -> None:
    """Return as soon as `happened`, which has to be while the process lives."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(1e-3)


class Comparison(NamedTuple):
    """The output of a sweep that was stopped, and of the comparison it grew into, killed and then
    finished.
    """

    run_dir: Path
    stopped: str
    first_table: str
    finished: str
    first_results: dict[str, int]  # folders with results before the last start, and when they were written


def make_comparison(launcher: Launcher, run_dir: Path) -> Comparison:
    process = launcher.start(launcher.comparison(run_dir, *SWEEP, warmup=0))
    metrics = run_dir / ADAMW / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and b'"loss"' in metrics.read_bytes())  # there is something to save
    process.send_signal(signal.SIGTERM)
    stopped, _ = process.communicate(timeout=200)
    assert process.returncode == 0, stopped
    assert not (run_dir / ADAMW / "summary.json").exists()
    first_table = (run_dir / "compare.md").read_text()
    arguments = launcher.comparison(run_dir, *WORDS, warmup=0)
    process = launcher.start(arguments)
    wait_for(process, lambda: (run_dir / GRASSJUMP / "config.json").exists())
    process.kill()
    process.communicate()
    # The run in progress is a separate process and continues.
    deadline = time.monotonic() + 200
    while not (run_dir / GRASSJUMP / "summary.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done = {path.parent.name: path.stat().st_mtime_ns for path in run_dir.glob("*/summary.json")}
    return Comparison(run_dir, stopped, first_table, launcher.finish(arguments), done)


def all_start_from_the_same_weights_on_the_same_text(comparison: Comparison) -> None:
    adamw, grassjump = (rows(comparison.run_dir / name) for name in (ADAMW, GRASSJUMP))
    assert adamw[0] == grassjump[0]
    assert adamw[0]["step"] == 0
    assert adamw[1]["step"] == 1
    assert adamw[1]["loss"] == grassjump[1]["loss"]
    assert adamw[-1]["eval_loss"] != grassjump[-1]["eval_loss"]
    assert [row["step"] for row in adamw if "loss" in row] == list(range(1, STEPS + 1))
    fingerprints = {
        json.loads(path.read_text())["data_fingerprint"] for path in comparison.run_dir.glob("*/config.json")
    }
    assert fingerprints == {json.loads((comparison.run_dir / "compare.json").read_text())["data_fingerprint"]}


def the_stopped_run_was_saved_and_resumed(comparison: Comparison) -> None:
    assert "SIGTERM: stopped, and nothing is lost; run the same command again to resume" in comparison.stopped
    assert f"[2/2] {ADAMW}: starts" in comparison.stopped
    log = (comparison.run_dir / ADAMW / "log.txt").read_text()
    assert log.count("SIGTERM: saved after step") == 1
    assert log.count(f"step {STEPS}: held-out loss") == 1


def the_diverged_run_is_a_row(comparison: Comparison) -> None:
    assert re.search(rf"^\[1/2\] {re.escape(DIVERGED)} \(\d+ s\): diverged$", comparison.stopped, re.M)
    assert "is not finite" in (comparison.run_dir / DIVERGED / "diverged.txt").read_text()
    assert not (comparison.run_dir / DIVERGED / "summary.json").exists()
    assert "| adamw | 1e+37 | 1 | diverged | - | - | - | - | - |" in comparison.first_table
    assert "**1 of 2 runs are missing.**" in comparison.first_table


def finished_runs_were_not_repeated(comparison: Comparison) -> None:
    assert comparison.first_results.keys() == {ADAMW, GRASSJUMP}
    for name, written in comparison.first_results.items():
        assert (comparison.run_dir / name / "summary.json").stat().st_mtime_ns == written
        assert f"[{1 + (name == GRASSJUMP)}/2] {name}: eval loss" in comparison.finished
    assert "starts" not in comparison.finished
    assert "resumes" not in comparison.finished


def the_table_is_that_of_the_runs(comparison: Comparison) -> None:
    text = (comparison.run_dir / "compare.md").read_text()
    assert text in comparison.finished
    best = json.loads((comparison.run_dir / "compare.json").read_text())["best"]
    assert {run["folder"] for run in best} == {ADAMW, GRASSJUMP}
    for run in best:
        summary = json.loads((comparison.run_dir / run["folder"] / "summary.json").read_text())
        assert run["eval_loss"] == summary["eval_loss"]
        assert f"{summary['eval_loss']:.4f} | {summary['bits_per_byte']:.4f} | " in text
        assert f" | {summary['optimizer_bytes']:,} | - |" in text
    losses = [run["eval_loss"] for run in best]
    assert losses == sorted(losses)


@pytest.mark.long
def test_a_comparison_stopped_and_killed_on_its_way_is_finished(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test for all checks, as several workers would each repeat the comparison."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # not worth it for twelve steps
    comparison = make_comparison(launcher, tmp_path / "x")
    all_start_from_the_same_weights_on_the_same_text(comparison)
    the_stopped_run_was_saved_and_resumed(comparison)
    the_diverged_run_is_a_row(comparison)
    finished_runs_were_not_repeated(comparison)
    the_table_is_that_of_the_runs(comparison)
    # A run made with other defaults, as by another version, is not compared.
    monkeypatch.setitem(OPTIMIZERS, "grassjump", dataclasses.replace(OPTIMIZERS["grassjump"], update_proj_gap=77))
    assert main(launcher.comparison(comparison.run_dir, *WORDS, warmup=0)) == 2
    assert "--update-proj-gap 77 (the run has 100)" in capsys.readouterr().err


def test_a_run_that_fails_is_reported_with_the_last_line_of_its_log(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "abacus")
    assert main(launcher.comparison(tmp_path / "runs", "--optimizers", "grassjump")) == 2
    error = capsys.readouterr().err
    assert "error: the run grassjump-lr0.005-scale0.25-seed0 exited with status 2; the last line of its log" in error
    assert "abacus" in error
    assert ".. " not in error
    assert "remove grassjump from --optimizers, then run the command again" in error
    assert (tmp_path / "runs" / "grassjump-lr0.005-scale0.25-seed0" / "log.txt").exists()
