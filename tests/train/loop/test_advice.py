"""What to do about a run that does not fit: only flags that it may have, and a plan of its step."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from models.config import CONFIGS
from train.__main__ import main, parse
from train.config.axes import idle
from train.config.finetune import Finetune
from train.config.run import Pretrain, UserError
from train.config.stored import settings_of
from train.config.validate import check, check_finetuning
from train.loop.advice import WITHOUT_COST, for_memory, plan_command
from train.plan.config import Plan, run_of_plan
from train.storage.model import read_model

MESH = "--mesh over more devices"
RUNS = [
    "",
    "--accumulate 16 --remat block",
    "--update-in-backward",
    "--update-in-backward --keep-every 2 --clip-by previous --clip 0.5",
    "--weights int8 --logits whole",
    "--optimizer adamw --precision mixed",
    "--optimizer badam",
    "--optimizer assemble --rule tracking --tracking-rank 2 --transport keep --residual sign --mu-dtype float8",
    "--skip-spikes 4 --diagnostics --basis blocks:4",
    "--model 60m --mesh data=1 --remat dots --clip 0 --weight-decay 0.1 --decay all",
]


def pretraining(words: str) -> Pretrain:
    config = parse(["pretrain", "--run-dir", "x", *words.split()])
    assert isinstance(config, Pretrain)
    return config


def advice(words: str) -> str:
    run = pretraining(words)
    return for_memory(run, CONFIGS[run.model.model], 1)


def flags_in(advice: str) -> list[str]:
    """The flags with values that an advice names."""
    options = [part.rstrip(".") for part in re.split(r", | or |: |; |\. ", advice)]
    return [option for option in options if option.startswith("--") and option != MESH]


@pytest.mark.parametrize("words", RUNS)
def test_every_flag_that_is_advised_is_accepted_and_new(words: str) -> None:
    run, options = pretraining(words), flags_in(advice(words))
    assert options
    for option in options:
        other = pretraining(f"{words} {option}")
        check(other)
        assert other != run, option


@pytest.mark.parametrize("words", ["", "--optimizer lora", "--remat block", "--freeze embed*"])
@pytest.mark.parametrize("kind", ["imported", "encoder"])
def test_so_is_every_flag_for_fine_tuning(kind: str, words: str, request: pytest.FixtureRequest) -> None:
    model: Path = request.getfixturevalue(kind)
    line = ["finetune", "--run-dir", "x", "--init-from", str(model), "--data", "files:x", "--rank", "2"]
    line = [*(line[:-2] if "lora" in words else line), *words.split()]
    run, network = parse(line), read_model(model).architecture
    assert isinstance(run, Finetune)
    text = for_memory(run, network, 1)
    assert "plan" not in text
    assert ("--weights int8" in text) == (kind == "imported" and words in ("", "--remat block"))
    for option in flags_in(text):
        other = parse([*line, *option.split()])
        assert isinstance(other, Finetune)
        check_finetuning(other, network)
        assert other != run, option


def test_the_two_sentences_follow_the_flags() -> None:
    keep, change = "These keep the results: ", "These change them: a smaller --batch-size, a smaller --seq-len"
    assert advice("").startswith(
        f"{keep}--logits chunked, --remat block, --accumulate 16, --update-in-backward or {MESH}. "
        f"{change}, --weights int8, --mu-dtype float8 --nu-dtype float8 or --precision bfloat16; python -m train plan"
    )
    assert advice("--update-in-backward --weights int8").startswith(
        f"{keep}--logits chunked or --keep-every 2. {change}, --mu-dtype float8"
    )
    assert "--update-in-backward --remat none --accumulate 1" in advice("--accumulate 2 --remat block")


@pytest.mark.parametrize("words", RUNS)
def test_the_plan_is_that_of_the_step(words: str) -> None:
    run = pretraining(words)
    plan = parse(plan_command(run).split())
    assert isinstance(plan, Plan)
    planned = run_of_plan(plan, 1)
    assert planned.devices == run.devices
    batch = ("batch_size", "accumulate", "seq_len")
    assert [getattr(planned.data, name) for name in batch] == [getattr(run.data, name) for name in batch]
    assert planned.model == run.model
    assert _that_cost(planned) == _that_cost(run)


def _that_cost(run: Pretrain) -> dict[str, Any]:
    ignored = (*WITHOUT_COST, *idle(run.optimizer))
    return {name: value for name, value in dataclasses.asdict(run.optimizer).items() if name not in ignored}


@pytest.mark.parametrize(
    ("words", "where", "message"),
    [
        (["sample"], "train.sample.command.continued", "Give fewer --tokens, or --dtype bfloat16."),
        (["evaluate"], "train.evaluate.command._losses", "Give a smaller --batch-size, or --dtype bfloat16."),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(
    words: list[str],
    where: str,
    message: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

    monkeypatch.setattr(where, fail)
    assert main([*words, "--run-dir", str(trained)]) == 2
    assert capsys.readouterr().err == (
        "error: the model does not fit into the memory of its device (RESOURCE_EXHAUSTED: Out of memory allocating 9 "
        f"bytes). {message}\n"
    )


def test_a_run_that_resumes_is_advised_what_it_may_change(tmp_path: Path) -> None:
    begun = pretraining("")
    (tmp_path / "config.json").write_text(json.dumps({"config": settings_of(begun)}))
    words = ["pretrain", "--run-dir", str(tmp_path), "--resume"]
    run = parse(words)
    assert isinstance(run, Pretrain)
    kept, others = for_memory(run, CONFIGS[run.model.model], 1).split(" These need a new run: ")
    assert len(flags_in(kept)) > 2
    for option in flags_in(kept):
        assert parse([*words, *option.split()]) != run
    with pytest.raises(UserError, match="leave these flags out"):
        parse([*words, "--precision", "bfloat16"])
    assert others.startswith("a smaller --batch-size, a smaller --seq-len")
