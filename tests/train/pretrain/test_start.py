"""Runs that start from the weights of others, and runs that go on in another place."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from tests.train.pretrain.test_runs import assert_same_run, rows
from tests.train.small_run import Launcher
from train.__main__ import main, parse
from train.config.run import Pretrain, UserError
from train.loop.trainer import Trainer
from train.plan.config import Plan
from train.pretrain.command import run_pretrain
from train.storage.folder import RunFolder


def test_a_run_starts_from_the_weights_of_another(
    trained: Path, launcher: Launcher, compiled: None, tmp_path: Path
) -> None:
    words = launcher.arguments(tmp_path / "run", optimizer="grassjump", steps=1, sample_tokens=0)
    at = words.index("--vocab-size")  # which is that of the model
    del words[at : at + 2]
    assert main([*words, "--init-from", str(trained)]) == 0
    first, last = rows(tmp_path / "run")[0], rows(trained)[-1]
    assert first["eval_loss"] == last["eval_loss"]
    assert (tmp_path / "run" / "tokenizer.json").read_text() == (trained / "tokenizer.json").read_text()
    start = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["start"]
    assert start == {"init_from": str(trained), "init_step": 12}  # a newer checkpoint would not change it


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "9m"), "--model 9m is not the model of --init-from"),
        (("--vocab-size", "400"), "--vocab-size 400 must be that of --init-from"),
        (("--tokenizer", "{foreign}/tokenizer.json"), "is not the one of --init-from"),
        (("--init-step", "7"), "has no checkpoint of step 7: it has 10, 12"),
    ],
)
def test_flags_that_do_not_fit_the_weights_are_refused(
    flags: tuple[str, ...], message: str, trained: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    content = json.loads((trained / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (foreign / "tokenizer.json").write_text(json.dumps(content))
    words = ["pretrain", "--run-dir", str(tmp_path / "run"), "--init-from", str(trained)]
    config = parse([*words, *(flag.format(foreign=foreign) for flag in flags)])
    assert isinstance(config, Pretrain)
    with pytest.raises(UserError, match=message):
        run_pretrain(config)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no model.json: give the folder of a run or of an import"):
        parse(["pretrain", "--run-dir", str(tmp_path / "run"), "--init-from", str(tmp_path)])


def test_a_run_goes_on_in_another_place(trained: Path, launcher: Launcher, compiled: None, tmp_path: Path) -> None:
    run_dir, texts = tmp_path / "run", tmp_path / "texts"
    shutil.copytree(trained, run_dir)
    shutil.copytree(launcher.corpus, texts)
    (run_dir / "summary.json").unlink()
    shutil.rmtree(run_dir / "checkpoints" / "12")
    words = ["pretrain", "--run-dir", str(run_dir), "--resume", "--cache-dir", str(tmp_path / "cache")]
    with pytest.raises(UserError, match="is no longer the text of this run"):
        run_pretrain(_parsed([*words, "--data", f"files:{texts}/json/*.py"]))
    run_pretrain(_parsed([*words, "--data", f"files:{texts}/**/*.py"]))
    assert_same_run(run_dir, trained)
    assert json.loads((run_dir / "config.json").read_text())["config"]["data"]["data"] == f"files:{texts}/**/*.py"


def test_a_damaged_configuration_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"config": {"mo')
    assert main(["pretrain", "--run-dir", str(tmp_path), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "config.json is not JSON" in error
    assert "--init-from" in error


def _parsed(words: list[str]) -> Pretrain:
    config = parse(words)
    assert isinstance(config, Pretrain)
    return config


def test_what_does_not_fit_into_memory_is_one_sentence(
    launcher: Launcher,
    compiled: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Trainer, "update", lambda _: jnp.zeros(2**45, jnp.int8))
    assert main(launcher.arguments(tmp_path / "run", eval_batches=1, accumulate=2)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not fit into the memory of its device" in error
    _, plan = error.split("; python -m ")
    planned = parse(plan.removesuffix(" reports what it needs.\n").split()[1:])
    assert isinstance(planned, Plan)
    assert planned.batch.accumulate == 2
    RunFolder(tmp_path / "run").refuse_used()  # it can be started again, with other flags
