"""The folder of a run that has made no update can be used again, and nothing of it remains."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.small_run import Launcher
from train.__main__ import main
from train.config.run import UserError
from train.loop.trainer import Trainer
from train.program.step import Report
from train.storage.folder import RunFolder
from train.storage.metrics import read_rows

Train = Callable[..., int]


@pytest.fixture
def train(launcher: Launcher, compiled: None) -> Train:
    def run(run_dir: Path, **flags: object) -> int:
        return main(launcher.arguments(run_dir, **{"optimizer": "adamw", "steps": 2, "sample_tokens": 0} | flags))

    return run


def stop(trainer: Trainer) -> None:
    raise UserError("stopped before the first update")


def spoil(trainer: Trainer, update: Callable[[Trainer], None]) -> None:
    """Make an update, and report it as skipped."""
    update(trainer)
    trainer.in_flight = Report(math.nan, 0.1, True, False)  # type: ignore[arg-type]


def evaluations(run_dir: Path) -> dict[int, float]:
    return {row["step"]: row["eval_loss"] for row in read_rows(RunFolder(run_dir).metrics) if "eval_loss" in row}


@pytest.mark.parametrize("words", [{}, {"keep_best": True}], ids=["without a checkpoint", "with that of step 0"])
def test_a_run_that_was_stopped_before_its_first_update_starts_again_with_another_seed(
    words: dict[str, object], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setattr(Trainer, "update", stop)
    assert train(run_dir, seed=1, log="tensorboard", **words) == 2
    before = evaluations(run_dir)
    assert list(before) == [0]
    assert (run_dir / "checkpoints" / "0").exists() == bool(words)
    identity = (run_dir / ".trackers" / "identity").read_text()
    (old,) = (run_dir / "tensorboard").iterdir()
    (run_dir / "diagnostics.jsonl").write_text('{"step": 0}\n')
    monkeypatch.undo()
    assert train(tmp_path / "fresh", seed=2) == 0
    assert train(run_dir, seed=2, log="tensorboard") == 0
    assert evaluations(run_dir) == evaluations(tmp_path / "fresh")
    assert evaluations(run_dir)[0] != before[0]
    assert (run_dir / ".trackers" / "identity").read_text() != identity
    assert not old.exists()
    assert not (run_dir / "diagnostics.jsonl").exists()


def test_a_run_whose_updates_were_all_skipped_has_diverged_and_starts_again(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, update = tmp_path / "run", Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda trainer: spoil(trainer, update))
    assert train(run_dir) == 3
    assert "the loss at step 2 is not finite, 2 updates in a row were skipped" in capsys.readouterr().err
    assert [row.get("skipped") for row in read_rows(run_dir / "metrics.jsonl")] == [None, 1, 2, None]
    assert read_rows(run_dir / "metrics.jsonl")[-1] == {"step": 2, "diverged": "loss"}
    assert not (run_dir / "summary.json").exists()
    monkeypatch.undo()
    assert train(run_dir) == 0
    assert all("skipped" not in row for row in read_rows(run_dir / "metrics.jsonl"))


@pytest.mark.parametrize("row", [{"step": 1, "loss": 2.0}, None], ids=["a row of an update", "a checkpoint after one"])
def test_a_run_with_an_update_is_refused_and_keeps_everything(
    row: dict[str, Any] | None, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"step": 0, "eval_loss": 3.0}, *([] if row is None else [row])]
    (tmp_path / "config.json").write_text('{"data_fingerprint": "2-0"}')
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (0, *([] if row else [3])):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    assert train(tmp_path) == 2
    assert "already contains a run: add --resume" in capsys.readouterr().err
    assert read_rows(tmp_path / "metrics.jsonl") == rows
    assert (tmp_path / "checkpoints" / "0").is_dir()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "config.json",
            '{"model_type": "llama"}',
            "contains a config.json of something else, but no",
        ),
        ("tokenizer.json", "{}", "contains tokenizer.json, but no config.json of a run"),
        ("config.json", "{", "contains a damaged config.json, but no config.json of a run"),
        ("metrics.jsonl", '{"accuracy": 1}\n', "contains metrics.jsonl, but no config.json of a run"),
        ("checkpoints/500/array", "weights", "contains checkpoints, but no config.json of a run"),
        ("checkpoints/0/array", "weights of an import", "contains checkpoints, but no config.json of a run"),
    ],
)
def test_what_is_of_no_run_is_refused_and_stays(
    name: str, content: str, message: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, others = tmp_path / "folder", ("tensorboard/events", "notes.txt")
    for path, text in ((name, content), *((other, "mine") for other in others)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    assert train(folder) == 2
    assert message in capsys.readouterr().err
    assert (folder / name).read_text() == content
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"} == {
        name,
        *others,
    }


def test_a_folder_with_other_files_may_be_used(train: Train, tmp_path: Path) -> None:
    (tmp_path / "slurm-1.out").write_text("mine")
    assert train(tmp_path) == 0
    assert (tmp_path / "slurm-1.out").read_text() == "mine"


def test_an_import_is_not_overwritten_by_the_run_that_starts_from_it(
    trained: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    assert main(["export", "--run-dir", str(trained), "--out", str(theirs)]) == 0
    assert main(["import", "--from", str(theirs), "--out", str(ours)]) == 0
    assert train(ours) == 2
    assert "contains checkpoints, but no config.json of a run" in capsys.readouterr().err
    assert (ours / "checkpoints" / "0").is_dir()
