"""Subspaces are measured at refreshes, and a resumed run has each measurement once."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from tests.train.small_run import Launcher
from train.__main__ import main
from train.loop.diagnosis import Diagnosis


def measure(state: Any, batch: Any) -> dict[str, Any]:
    return {"captured": {"layers/up": jnp.full(2, 0.5 * state)}}


def opened(path: Path | None, step: int = 0, gap: int = 100) -> Diagnosis:
    return Diagnosis(measure, gap, path, step)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("gap", "every"), [(100, 100), (20, 20), (32, 32), (7, 21), (1, 20)])
def test_measurements_are_at_refreshes_and_not_at_every_one_of_many(gap: int, every: int) -> None:
    diagnosis = opened(None, gap=gap)
    assert [updates for updates in range(101) if diagnosis.is_due(updates)] == list(range(0, 101, every))
    assert all(diagnosis.may_be_due(updates) for updates in (0, 1, every, every + 1))
    assert not diagnosis.may_be_due(every - 1)


@pytest.mark.parametrize("line", ['{"step": 301, "capt', '{"stfp": 100}', "[100]", "100"])
def test_rows_after_the_checkpoint_and_a_line_that_is_no_row_are_dropped(line: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    with opened(path) as diagnosis:
        for step in (1, 101, 201):
            diagnosis.measure(2.0, None, step, seconds=1.0)
    assert rows(path)[0] == {"step": 1, "seconds": 1.0, "captured": {"layers/up": [1.0, 1.0]}}
    with path.open("a") as file:
        file.write(line)
    with opened(path, step=150) as diagnosis:
        assert [row["step"] for row in rows(path)] == [1, 101]
        diagnosis.measure(4.0, None, 201)
    assert [row["step"] for row in rows(path)] == [1, 101, 201]


def test_a_process_without_a_file_measures_and_writes_nothing(tmp_path: Path) -> None:
    with opened(None) as diagnosis:
        diagnosis.measure(1.0, None, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_run_is_the_same_with_measurements_and_a_resumed_one_has_each_once(
    launcher: Launcher, tmp_path: Path, compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the updates to 1, 5 and 9; killed after the checkpoint at 5, it measures 9 again."""
    monkeypatch.setattr("train.loop.diagnosis.FEWEST", 4)
    plain, run_dir = tmp_path / "plain", tmp_path / "run"
    assert main(launcher.arguments(plain, keep=3)) == 0
    assert main([*launcher.arguments(run_dir, keep=3), "--diagnostics"]) == 0
    losses = [[row.get("loss") for row in rows(path / "metrics.jsonl")] for path in (plain, run_dir)]
    assert losses[0] == losses[1]
    assert not (plain / "diagnostics.jsonl").exists()
    before = rows(run_dir / "diagnostics.jsonl")
    assert [row["step"] for row in before] == [1, 5, 9]
    energy = before[1]["captured"]["layers/mlp/down/kernel"]
    assert all(0 < x <= 1 for x in energy)
    assert before[0]["overlap"]["layers/mlp/down/kernel"] == [0.0] * len(energy)
    (run_dir / "summary.json").unlink()
    for step in (10, 12):
        (run_dir / "checkpoints" / str(step)).rename(tmp_path / str(step))
    assert main(["pretrain", "--run-dir", str(run_dir), "--resume"]) == 0
    after = rows(run_dir / "diagnostics.jsonl")
    assert [{name: x for name, x in row.items() if name != "seconds"} for row in after] == [
        {name: x for name, x in row.items() if name != "seconds"} for row in before
    ]
    assert main(["figures", "--run-dir", str(run_dir), str(plain), "--out", str(tmp_path / "figures")]) == 0
    names = {"loss", "run-energy", "run-spectrum", "run-curvature", "run-subspaces"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == names
