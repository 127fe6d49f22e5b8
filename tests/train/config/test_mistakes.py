"""Mistakes that any command line may have: one sentence each, and nothing is written."""

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.__main__ import COMMAND_OF, Command, main, parse
from train.config.mistakes import ELSEWHERE, check_values, check_words, flags_of, values_of
from train.config.run import Pretrain, UserError
from train.config.stored import settings_of
from train.config.validate import check

REQUIRED = {  # flags without which a command line is not read
    "pretrain": "--run-dir x",
    "compare": "--run-dir x --optimizers adamw grassjump",
    "plan": "",
    "export": "--run-dir x --out y",
    "sample": "--run-dir x",
    "evaluate": "--run-dir x",
}


def takes_float(kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType, tuple):
        return any(map(takes_float, get_args(kind)))
    return kind is float


FLOATS = [(name, flag) for name in REQUIRED for flag, kind in flags_of(COMMAND_OF[name]) if takes_float(kind)]


def spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_there_are_numbers_to_check() -> None:
    assert {flag for _, flag in FLOATS} >= {
        "learning_rate", "adam_learning_rate", "scale", "weight_decay", "clip", "final_lr_fraction", "data_megabytes",
        "max_norm_growth", "step_size", "temperature", "top_p",
    }  # fmt: skip
    assert {"epochs", "final_lr_fraction", "clip"} <= {
        flag for flag, kind in flags_of(COMMAND_OF["finetune"]) if takes_float(kind)
    }


@functools.cache
def parsed(command: str) -> Command:
    return parse([command, *REQUIRED[command].split()])


def replaced(config: Any, name: str, value: Any) -> Any:
    """The configuration with another value of a flag, in whichever group it is."""
    changes = {}
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if field.name == name:
            changes[name] = value
        elif dataclasses.is_dataclass(part):
            changes[field.name] = replaced(part, name, value)
    return dataclasses.replace(config, **changes)


@settings(deadline=None)
@given(st.sampled_from(FLOATS), st.floats())
def test_a_number_that_is_not_finite_is_refused_by_name(where: tuple[str, str], value: float) -> None:
    command, flag = where
    config = replaced(parsed(command), flag, value)
    if math.isfinite(value):
        check_values(config)
    else:
        with pytest.raises(UserError, match=rf"^{spelled(flag)} {value} must be a finite number\.$"):
            check_values(config)


@pytest.mark.parametrize(
    "words",
    ["pretrain --run-dir x --weight-decay inf", "compare --run-dir x --optimizers adamw --clip nan",
     "plan --scale nan", "sample --run-dir x --top-p nan"],
)  # fmt: skip
def test_every_command_checks_its_numbers(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert "must be a finite number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain --run-dir x --lr 0.1", "--lr is not a flag of this command: its name here is --learning-rate."),
        ("pretrain --run-dir x --lr=0.1", "its name here is --learning-rate."),
        ("pretrain --run-dir x --batch 3", "its name here is --batch-size."),
        ("pretrain --run-dir x --wd 3", "its name here is --weight-decay."),
        ("pretrain --run-dir x --epochs 3", "its name here is --steps."),
        ("pretrain --run-dir x --warmup_steps 3", "its name here is --warmup."),
        ("finetune --run-dir x --warmup-fraction 0.1", "its name here is --warmup."),
        ("compare --run-dir x --optimizer adamw", "its name here is --optimizers."),
        ("compare --run-dir x --completion none", "give --sweep completion=VALUE, or several values."),
        ("compare --run-dir x --sweep-scale 1 2", "give --sweep scale=VALUE, or several values."),
        ("compare --run-dir x --learning-rate 1", "give --sweep learning_rate=VALUE, or several values."),
    ],
)
def test_a_word_of_other_trainers_is_answered_with_ours(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_the_answer_is_a_flag_of_some_command_and_no_flag_has_the_name_of_its_answer() -> None:
    flags = {name: {flag for flag, _ in flags_of(kind)} for name, kind in COMMAND_OF.items()}
    for word, ours in ELSEWHERE.items():
        assert all(any(name in known for known in flags.values()) for name in ours)
        assert word.replace("-", "_").removeprefix("__") not in ours


def test_a_flag_that_exists_is_not_corrected() -> None:
    check_words(["--epochs", "3", "--data", "files:--lr"], COMMAND_OF["finetune"])
    check_words(["--sample-prompt=--lr"], COMMAND_OF["pretrain"])
    check_words(["--mesh", "", "--sample-prompt", ""], COMMAND_OF["pretrain"])


@pytest.mark.parametrize(
    "words",
    [["pretrain", "--run-dir", ""], ["pretrain", "--run-dir="], ["pretrain", "--run-dir", "x", "--config", ""],
     ["compare", "--run-dir", "", "--optimizers", "adamw"], ["export", "--run-dir", "x", "--out", ""],
     ["plan", "--json", ""], ["evaluate", "--run-dir", ""]],
)  # fmt: skip
def test_an_empty_path_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert " is empty: give a path." in capsys.readouterr().err


def test_a_stored_configuration_may_hold_values_without_effect(tmp_path: Path) -> None:
    """Those of a run with another optimizer, from which only the optimizer changes."""
    stored = parse(["pretrain", "--run-dir", "x", "--rank", "8", "--update-proj-gap", "7", "--basis", "blocks:2"])
    assert isinstance(stored, Pretrain)
    (tmp_path / "c.json").write_text(json.dumps({"config": settings_of(stored)}))
    words = ["pretrain", "--run-dir", "y", "--config", str(tmp_path / "c.json"), "--optimizer", "adamw"]
    assert dict(values_of(parse(words)))["rank"] == 8
    with pytest.raises(UserError, match="--rank 9 has no effect on adamw: leave it out"):
        parse([*words, "--rank", "9"])


@pytest.mark.parametrize("command", ["finetune", "compare-finetune --optimizers adamw"])
def test_an_encoder_writes_no_sample(command: str, encoder: Path, imported: Path) -> None:
    def words(model: Path) -> list[str]:
        return [*command.split(), "--run-dir", "x", "--init-from", str(model), "--data", "files:x"]

    parse([*words(imported), "--sample-tokens", "5"])
    parse(words(encoder))
    with pytest.raises(UserError, match=r"^--sample-tokens 5 has no effect on an encoder: leave it out\.$"):
        parse([*words(encoder), "--sample-tokens", "5"])


def resumed(run_dir: Path, stored: str, words: str) -> Command:
    """The command line that resumes a run, which began with the words `stored`."""
    begun = parse(["pretrain", "--run-dir", str(run_dir), *stored.split()])
    assert isinstance(begun, Pretrain)
    (run_dir / "config.json").write_text(json.dumps({"config": settings_of(begun)}))
    return parse(["pretrain", "--run-dir", str(run_dir), "--resume", *words.split()])


@pytest.mark.parametrize(
    ("stored", "words", "message"),
    [
        ("--sample-tokens 0", "--sample-prompt a", "--sample-prompt a has no effect on --sample-tokens 0: leave it"),
        ("", "--sample-tokens 0 --sample-prompt a", "--sample-prompt a has no effect on --sample-tokens 0: leave it"),
        ("--steps 9", "--profile 10:12", "--profile 10:12 has no effect on --steps 9: leave it out"),
        ("--optimizer adamw", "--rank 9", r"--rank 9 \(the run has 32\): leave these flags out"),
        ("", "--cooldown 5%", r"--cooldown 5% \(the run has 20%\): leave these flags out"),
    ],
)
def test_a_flag_that_does_nothing_is_refused_when_a_run_resumes(
    stored: str, words: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        resumed(tmp_path, stored, words)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ("--sample-tokens 0", "--sample-tokens 3 --sample-prompt a"),
        ("--steps 9", "--steps 12 --profile 10:12"),
        ("--optimizer adamw", "--rank 32"),  # as in the stored run
        ("--sample-prompt a", "--sample-tokens 0 --sample-prompt a"),
        ("", "--remat block --accumulate 4 --logits chunked --attention xla"),
        ("", "--skip-nonfinite 20 --skip-spikes 4.0"),
    ],
)
def test_a_flag_that_does_something_or_repeats_the_run_is_accepted_when_it_resumes(
    stored: str, words: str, tmp_path: Path
) -> None:
    flags = dict(values_of(resumed(tmp_path, stored, words)))
    for name, value in list(itertools.pairwise(words.split()))[::2]:
        assert str(flags[name.removeprefix("--").replace("-", "_")]) == value


@pytest.mark.parametrize(
    ("stored", "words", "message"),
    [
        ("", "--keep-every 2", "without --update-in-backward: add it, or --keep-every 1"),
        ("--keep-every 2", "--no-update-in-backward", "without --update-in-backward: add it, or --keep-every 1"),
        ("--clip-by layer", "--no-update-in-backward", "was started with both, so leave out --no-update-in-backward"),
        ("", "--diagnostics", "--diagnostics needs another optimizer than adamw"),
    ],
)
def test_a_flag_that_cannot_act_is_refused_before_the_run_resumes(
    stored: str, words: str, message: str, tmp_path: Path
) -> None:
    stored = f"{stored} --update-in-backward" if stored else ""
    config = resumed(tmp_path, f"--optimizer adamw {stored}", words)
    assert isinstance(config, Pretrain)
    with pytest.raises(UserError, match=message):
        check(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("galore --max-norm-growth 2", "--max-norm-growth 2.0 has no effect on galore: leave it out"),
        ("adamw --completion isotropic", "--completion isotropic has no effect on adamw: leave it out"),
        ("grassjump --walk-rank 2", "--walk-rank 2 has no effect on grassjump: leave it out"),
        ("grasswalk --tracking-rank 2", "--tracking-rank 2 has no effect on grasswalk: leave it out"),
        ("grassjump --step-size 2", "--step-size 2.0 has no effect on grassjump: leave it out"),
        ("grassjump --rule svd", "--rule svd has no effect on grassjump: leave it out"),
        ("assemble --rule svd --step-size 1", "--step-size 1.0 has no effect on assemble with --rule svd, --transport"),
        ("assemble --rule frozen --transport keep", "--transport keep has no effect on assemble with --rule frozen"),
        ("grassjump --jump-every 2", "--jump-every 2 has no effect on grassjump: leave it out"),
        ("assemble --rule random_walk --jump-every 2", "--jump-every 2 has no effect on assemble with --rule random_w"),
        ("assemble --rule random_walk_with_jumps --basis columns", "--basis columns has no effect on assemble with"),
        ("assemble --rule random_walk_with_jumps --no-store-basis", "--no-store-basis has no effect on assemble with"),
        ("assemble --residual dropped --max-norm-growth 2", "--max-norm-growth 2.0 has no effect on assemble"),
        ("assemble --transport keep --completion isotropic", "--completion isotropic has no effect on assemble"),
    ],
)
def test_a_knob_that_does_nothing_is_refused_by_name(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(["pretrain", "--run-dir", "x", "--optimizer", *words.split()])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("grassjump --max-norm-growth 0", "--max-norm-growth 0.0 must be positive, or None"),
        ("subtrack --step-size -1", "--step-size -1.0 must be positive, or None"),
        ("grasswalk --walk-rank 0", "--walk-rank 0 must be at least 1"),
        ("grasswalk --walk-rank 33", "--walk-rank 33 must be at most 32: a subspace of --rank 32 has no more to turn"),
        ("assemble --rule random_walk_with_jumps --walk-rank 33", "--walk-rank 33 must be at most 32"),
        (
            "assemble --rule random_walk_with_jumps --jump-every 1",
            "--jump-every 1 must be at least 2: --rule random_jump",
        ),
        ("subtrack --tracking-rank 9 --rank 120", "--tracking-rank 9 must be at most 8"),
    ],
)
def test_a_knob_out_of_range_is_refused(words: str, message: str) -> None:
    config = parse(["pretrain", "--run-dir", "x", "--optimizer", *words.split()])
    assert isinstance(config, Pretrain)
    with pytest.raises(UserError, match=message):
        check(config)
    check(parse(["pretrain", "--run-dir", "x", "--optimizer", words.split()[0]]))  # type: ignore[arg-type]


def test_no_limit_and_every_angle_are_spelled_as_in_the_library() -> None:
    words = ["--optimizer", "subtrack", "--max-norm-growth", "None", "--step-size", "None"]
    found = dict(values_of(parse(["pretrain", "--run-dir", "x", *words])))
    assert (found["max_norm_growth"], found["step_size"]) == (None, None)


def test_a_start_beside_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--init-from brings a model and a tokenizer, and so does --config"):
        parse(["pretrain", "--run-dir", "x", "--config", str(tmp_path / "c.json"), "--init-from", "y"])
