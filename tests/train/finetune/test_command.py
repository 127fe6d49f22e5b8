"""Fine-tuning runs: they start from the weights of a run, learn completions, and resume."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.train.small_run import SAME_LOSS, Launcher, known_to, losses, words_of
from train.__main__ import main, parse
from train.config.finetune import Finetune
from train.config.optimizers import OPTIMIZERS
from train.program.program import pretraining
from train.program.sharding import make_mesh
from train.storage.folder import RunFolder
from train.storage.model import read_model
from train.storage.weights import kept_step, restore_params

ROWS = [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a in range(5) for b in range(5)]
SMALL = {
    "batch_size": 2,
    "seq_len": 24,
    "steps": 6,
    "rank": 4,
    "update_proj_gap": 3,
    "save_every": 4,
    "learning_rate": 1e-3,
}


@pytest.fixture(scope="session")
def base(trained: Path) -> Path:
    """A model to start from."""
    return trained


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("examples") / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return f"files:{path}"


@pytest.fixture
def finetune(base: Path, examples: str, compiled: None) -> Callable[..., int]:
    def run(run_dir: Path, *words: object, data: str = examples) -> int:
        optimizer = str(words[words.index("--optimizer") + 1]) if "--optimizer" in words else "grassjump"
        small = words_of(known_to(optimizer, SMALL))
        arguments = ["--init-from", base, "--data", data, "--run-dir", run_dir, *small, *words]
        return main(["finetune", *map(str, arguments)])

    return run


def weights(run_dir: Path, step: int | None = None) -> Any:
    """The weights of a run of the small model."""
    config = RunFolder(run_dir).stored().config
    start = config.start.init_from if isinstance(config, Finetune) else run_dir
    first = RunFolder(start).stored().config
    assert not isinstance(first, Finetune)
    task = pretraining(first.model, first.data, make_mesh("", 1))
    checkpoints = RunFolder(run_dir).checkpoints
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.eval_shape(lambda: task.draw(0))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract)
    return restore_params(checkpoints, kept_step(checkpoints, step), abstract)


def test_a_run_starts_from_the_weights_and_learns_the_completions(
    finetune: Callable[..., int], base: Path, tmp_path: Path
) -> None:
    assert finetune(tmp_path / "run", "--steps", 30, "--learning-rate", 5e-3) == 0
    folder = RunFolder(tmp_path / "run")
    before, after = (row["eval_loss"] for row in rows(folder.metrics) if "eval_loss" in row)
    assert after < 0.6 * before
    assert read_model(folder.path).settings == read_model(base).settings
    assert folder.sample.read_text().startswith(tuple(row["prompt"] for row in ROWS))
    summary = json.loads(folder.summary.read_text())
    assert summary["eval_loss"] == after
    assert summary["parameters"] == sum(x.size for x in jax.tree.leaves(weights(base)))


def test_the_first_loss_is_that_of_the_given_weights(finetune: Callable[..., int], base: Path, tmp_path: Path) -> None:
    """An update with a rate of almost nothing keeps the weights, in another optimizer, too."""
    assert finetune(tmp_path / "run", "--learning-rate", 1e-30, "--optimizer", "adamw", "--steps", 1) == 0
    for kept, given in zip(jax.tree.leaves(weights(tmp_path / "run")), jax.tree.leaves(weights(base)), strict=True):
        np.testing.assert_array_equal(kept, given)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_a_run_that_is_interrupted_resumes_bit_for_bit(finetune: Callable[..., int], tmp_path: Path) -> None:
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    assert finetune(whole) == 0
    assert finetune(begun) == 0
    for path in (begun / "summary.json", begun / "sample.txt"):
        path.unlink()
    (newest,) = (begun / "checkpoints").glob("6")
    for path in sorted(newest.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    newest.rmdir()
    assert main(["finetune", "--run-dir", str(begun), "--resume"]) == 0
    assert losses(begun) == losses(whole)
    for one, other in zip(jax.tree.leaves(weights(begun)), jax.tree.leaves(weights(whole)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_counts_epochs_is_extended_by_epochs(
    base: Path, examples: str, compiled: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = words_of({name: value for name, value in SMALL.items() if name != "steps"})
    words = ["--init-from", str(base), "--data", examples, "--run-dir", str(tmp_path / "run"), *small]
    assert main(["finetune", *words, "--epochs", "1", "--sample-tokens", "0"]) == 0
    late = ["--run-dir", str(tmp_path / "other"), "--epochs", "1", "--profile", "99:99"]
    assert main(["finetune", *words, *late]) == 2
    assert re.search("--profile 99:99 has no effect on a run of [0-9]+ updates", capsys.readouterr().err)
    before = losses(tmp_path / "run")
    resume = ["finetune", "--run-dir", str(tmp_path / "run"), "--resume"]
    for fewer in (["--epochs", "0.5"], ["--steps", "99"]):
        assert main([*resume, *fewer]) == 2
        assert f"but was given {' '.join(fewer)} (the run has" in capsys.readouterr().err
    assert main([*resume, "--epochs", "2"]) == 0
    after = losses(tmp_path / "run")
    assert len(after) == 2 * len(before)
    assert {step: after[step] for step in before} == before
    assert main([*resume, "--epochs", "2"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_frozen_parameters_are_those_of_the_start(finetune: Callable[..., int], base: Path, tmp_path: Path) -> None:
    assert finetune(tmp_path / "run", "--freeze", "embed/*", "layers/mlp/*") == 0
    before, after = weights(base), weights(tmp_path / "run")
    np.testing.assert_array_equal(after["embed"]["embedding"], before["embed"]["embedding"])
    np.testing.assert_array_equal(after["layers"]["mlp"]["up"]["kernel"], before["layers"]["mlp"]["up"]["kernel"])
    assert np.any(after["layers"]["attention"]["q"]["kernel"] != before["layers"]["attention"]["q"]["kernel"])


@pytest.mark.parametrize(
    ("words", "rounding"),
    [(("--update-in-backward",), SAME_LOSS), (("--weights", "int8"), 0.03)],
    ids=["in_backward", "int8"],
)
def test_a_run_that_takes_less_memory_learns_as_the_plain_one(
    words: tuple[str, ...], rounding: float, finetune: Callable[..., int], tmp_path: Path
) -> None:
    usual = ("--optimizer", "adamw", "--scale", 1, "--learning-rate", 2e-3, "--steps", 8)
    assert finetune(tmp_path / "plain", *usual) == 0
    assert finetune(tmp_path / "run", *usual, *words) == 0
    plain, found = losses(tmp_path / "plain"), losses(tmp_path / "run")
    assert found == pytest.approx(plain, rel=rounding)
    assert found != plain
    assert list(found.values())[-1] < 0.8 * found[1]


@pytest.mark.long
def test_texts_are_learnt_whole(finetune: Callable[..., int], tmp_path: Path) -> None:
    for name, text in (("a", "one two three " * 40), ("b", "four five six " * 40)):
        (tmp_path / f"{name}.txt").write_text(text)
    assert finetune(tmp_path / "run", data=f"files:{tmp_path}/*.txt") == 0


@pytest.mark.long
def test_weights_in_bfloat16_are_read_from_float32(finetune: Callable[..., int], tmp_path: Path) -> None:
    with jax.numpy_dtype_promotion("standard"):  # attention of JAX with a mask mixes types
        assert finetune(tmp_path / "run", "--precision", "bfloat16", "--steps", 2) == 0
    assert read_model(tmp_path / "run").network.param_dtype == "bfloat16"


def test_the_defaults_are_those_of_published_fine_tuning_runs(base: Path) -> None:
    for name in ("galore", "badam", "adamw"):
        config = parse(
            ["finetune", "--init-from", str(base), "--run-dir", "x", "--optimizer", name, "--data", "files:x"]
        )
        assert isinstance(config, Finetune)
        row = OPTIMIZERS[name]
        assert config.optimizer.learning_rate == row.finetuning.learning_rate
        assert config.optimizer.scale == (row.finetuning.scale)
        assert config.optimizer.rank == 8
        assert config.data.seq_len == 16  # what the model was trained for


@pytest.mark.parametrize(("rows_per_epoch", "steps"), [(100, 38), (5, 2), (1, 1)])
def test_epochs_are_counted_in_rows(rows_per_epoch: int, steps: int) -> None:
    from train.config.finetune import EpochFlags

    schedule = EpochFlags(epochs=3.0, warmup="10%").in_updates(rows_per_epoch, batch_size=8)
    assert schedule.steps == steps
    assert schedule.warmup_updates == round(0.1 * steps)
    assert EpochFlags(steps=7).in_updates(rows_per_epoch, 8).steps == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "x.jsonl"), r"--data 'x.jsonl' must be files:GLOB"),
        (("--data", "files:nothing*"), r"files:nothing\* matches no file"),
        (("--init-from", "nowhere"), r"nowhere has no model.json: give the folder of a run or of an import"),
        (("--init-step", 99), r"has no checkpoint of step 99: it has 10, 12"),
        (("--rank", 999), r"--rank 999 must be below the hidden size"),
        (("--freeze", "head"), r"--freeze head names no parameter"),
        (("--weights", "int8", "--freeze", "embed/*"), r"--weights int8 is for parameters that are all trained"),
        (
            ("--weights", "int8", "--optimizer", "lora"),
            r"--weights int8 rounds every .* those of lora have few numbers",
        ),
        (("--warmup", "100%"), r"--warmup 100% must be below 100%"),
        (("--epochs", "nan"), r"--epochs nan must be a finite number"),
        (("--epochs", "inf"), r"--epochs inf must be a finite number"),
        (("--epochs", 9), r"--epochs 9.0 has no effect beside --steps 6: leave it out"),
        (("--patience", 2), r"--patience 2 needs evaluations during training: add --eval-every"),
        (("--metric", "accuracy"), r"--metric accuracy must be one of eval_loss for this task"),
        (("--label-field", "x"), r"--label-field x has no effect on a language model: leave it out"),
        (("--profile", "7:9"), r"--profile 7:9 has no effect on --steps 6: leave it out"),
        (("--sample-tokens", 0, "--sample-prompt", "a"), r"--sample-prompt a has no effect on --sample-tokens 0"),
        (
            ("--optimizer", "lora", "--adam-learning-rate", 0.1),
            r"--adam-learning-rate 0.1 has no effect on lora of a language model: leave it out",
        ),
        (
            ("--optimizer", "lora", "--weight-decay", 0.1, "--decay", "all"),
            r"--decay all has no effect on lora of a language model: leave it out",
        ),
        (("--task", "classification"), r"--task classification needs an encoder, such as BERT"),
    ],
)
def test_what_cannot_run_is_refused(
    words: tuple[object, ...],
    message: str,
    finetune: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune(tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_stops_early_and_keeps_the_best_checkpoint(
    finetune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate that is far too high the loss rises at once."""
    words = ("--steps", 40, "--learning-rate", 1.0, "--clip", 0, "--eval-every", 2, "--patience", 3)
    assert finetune(tmp_path / "run", *words, "--optimizer", "adamw", "--scale", 1) == 0
    folder = RunFolder(tmp_path / "run")
    evaluations = [row for row in rows(folder.metrics) if "eval_loss" in row]
    best = min(evaluations, key=lambda row: row["eval_loss"])
    assert evaluations[-1]["step"] == best["step"] + 3 * 2 < 40
    summary = json.loads(folder.summary.read_text())
    assert (summary["best_eval_loss"], summary["best_step"]) == (best["eval_loss"], best["step"])
    assert f"take the best checkpoint with --step {best['step']}\n" in capsys.readouterr().out
    kept = sorted(int(path.name) for path in folder.checkpoints.iterdir())
    assert kept == sorted({best["step"], evaluations[-2]["step"], evaluations[-1]["step"]})


def test_a_run_of_pretrain_is_not_resumed_by_finetune(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--run-dir", str(base), "--resume"]) == 2
    assert "the settings are those of a run of pretrain: use python -m train pretrain" in capsys.readouterr().err


def test_examples_that_changed_are_refused(
    finetune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert finetune(tmp_path / "run", data=f"files:{path}") == 0
    (tmp_path / "run" / "summary.json").unlink()
    path.write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert main(["finetune", "--run-dir", str(tmp_path / "run"), "--resume"]) == 2
    assert "no longer holds the examples of this run" in capsys.readouterr().err


@pytest.mark.long
def test_two_devices_train_as_one(launcher: Launcher, base: Path, examples: str, tmp_path: Path) -> None:
    found = []
    for devices, mesh in ((1, ""), (2, "fsdp=2"), (2, "tensor=2")):
        run_dir = tmp_path / f"{devices}{mesh}"
        words = ["--init-from", str(base), "--data", examples, "--run-dir", str(run_dir), *words_of(SMALL)]
        launcher.finish(["finetune", *words, *(["--mesh", mesh] if mesh else [])], devices)
        found.append(losses(run_dir))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=SAME_LOSS)
