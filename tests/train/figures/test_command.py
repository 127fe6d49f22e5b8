"""`figures` as a command: from the files of a run, whatever its age and its version."""

import json
from pathlib import Path

import pytest

from tests.train.figures.measured import measured
from train.__main__ import main, parse
from train.config.run import Pretrain
from train.figures.command import _measurements
from train.storage.folder import RunFolder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of three updates by an older version, which wrote neither seconds nor tokens."""
    config = parse(["pretrain", "--run-dir", str(tmp_path / "run")])
    assert isinstance(config, Pretrain)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.store(config, "2-abc")
    rows = [{"step": t, "loss": 9.0 - t, "lr": 0.1, "tokens_per_second": 100.0} for t in range(1, 4)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.path


def test_a_run_of_an_older_version_is_drawn(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "--run-dir", str(run_dir)]) == 0
    assert [path.name for path in RunFolder(run_dir).figures.iterdir()] == ["loss.png"]
    assert "has no measurements of subspaces" in capsys.readouterr().out


def test_a_young_run_has_the_figures_that_it_can_have(run_dir: Path, tmp_path: Path) -> None:
    RunFolder(run_dir).diagnostics.write_text(json.dumps(measured(1)) + "\n")
    assert main(["figures", "--run-dir", str(run_dir), "--out", str(tmp_path / "out")]) == 0
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {
        *("loss", "energy", "spectrum", "curvature", "subspaces")
    }


@pytest.mark.parametrize("damage", [("captured_by_best", "captwred_by_best"), ("attn/q", "attn/p")])
def test_a_row_with_a_damaged_name_is_not_drawn(damage: tuple[str, str], run_dir: Path, tmp_path: Path) -> None:
    lines = [json.dumps(measured(step)) + "\n" for step in (1, 101, 201)]
    RunFolder(run_dir).diagnostics.write_text("".join([lines[0].replace(*damage), *lines[1:]]))
    assert [row["step"] for row in _measurements(RunFolder(run_dir))] == [101, 201]
    assert main(["figures", "--run-dir", str(run_dir), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "energy.png").exists()


@pytest.mark.parametrize(("words", "message"), [((), "names no folder"), (("nowhere",), "contains no run")])
def test_a_folder_without_a_run_is_one_sentence(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", "--run-dir", *words]) == 2
    assert message in capsys.readouterr().err
