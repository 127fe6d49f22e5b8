"""The command `report`: at any time, for any run, and for nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from train.__main__ import main
from train.storage.metrics import read_rows
from train.storage.quantities import COLUMNS


def report(run_dir: Path) -> str:
    assert main(["report", "--run-dir", str(run_dir)]) == 0
    return (run_dir / "report.html").read_text()


def test_a_finished_run_has_its_report_which_the_command_repeats(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    assert report(tmp_path / "run") == (trained / "report.html").read_text()
    sample = (trained / "sample.txt").read_text()
    assert "def " in sample
    machine = json.loads((trained / "config.json").read_text())["machine"]
    assert machine["devices"] == "1 x cpu"
    assert machine["system"] in (trained / "report.html").read_text()


def test_a_run_writes_no_column_that_has_no_name_and_no_unit(trained: Path) -> None:
    assert {name for row in read_rows(trained / "metrics.jsonl") for name in row} <= COLUMNS.keys()


def test_a_run_in_progress_and_one_of_an_older_version_have_a_report(trained: Path, tmp_path: Path) -> None:
    content = json.loads((trained / "config.json").read_text())
    del content["machine"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert "There is no update yet." in report(tmp_path)
    old = [{k: row[k] for k in row if k not in ("seconds", "tokens")} for row in read_rows(trained / "metrics.jsonl")]
    partial = "".join(json.dumps(row) + "\n" for row in old)[:-9]
    (tmp_path / "metrics.jsonl").write_text(partial)
    text = report(tmp_path)
    assert "not finished: 12 of 12 steps so far" in text
    assert "Loss over seconds of training" in text
    assert (tmp_path / "metrics.jsonl").read_text() == partial


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run-dir", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"error: --run-dir {tmp_path} contains no run: give a folder with a config.json.\n"
    )
    assert list(tmp_path.iterdir()) == []
