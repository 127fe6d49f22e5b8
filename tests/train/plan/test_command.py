"""`train plan`: compared with the step that runs, and every mistake in one line."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest

from tests.train.small_run import ROOT
from train.__main__ import main, parse
from train.config.run import Pretrain, defaults
from train.plan import command
from train.plan import report as plan_report
from train.plan.config import Plan, run_of_plan


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line, settings = [sys.executable, "-m", *words], os.environ | environment
    return subprocess.run(line, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=280, check=False)


def test_the_command_plans_for_devices_that_are_not_present(tmp_path: Path) -> None:
    """With one window per device, and the size of AdamW's state for comparison. The exit status
    says that the step does not fit, after the plan has been printed and written.
    """
    path = tmp_path / "plan.json"
    words = ("--model", "tiny", "--optimizer", "column_sgd", "--mesh", "data=2,fsdp=4", "--seq-len", "8")
    done = run("train", "plan", *words, "--memory", "2MB", "--no-remedies", "--json", str(path))
    assert done.returncode == 4, done.stderr
    plan = json.loads(path.read_text())
    assert (plan["devices"], plan["device"], plan["flags"]["batch_size"]) == (8, "cpu", 8)
    assert plan["bytes"]["optimizer_state"] < plan["bytes"]["adamw_state"]
    assert plan["compiled"]["total"] > plan["bytes"]["parameters"] + plan["bytes"]["optimizer_state"]
    assert {row["group_size"] for row in plan["sent"]} >= {2, 4}
    assert plan_report.text(plan) == done.stdout.rstrip("\n")
    for part in (
        "8 windows of 8 tokens per update, in 1 part of 1 per device",
        "exact; AdamW's would be",
        "simulated CPU devices",
    ):
        assert part in done.stdout
    assert done.stdout.startswith("Fits: no. The step needs ")
    assert done.stderr.endswith(done.stdout.splitlines()[0] + "\n")
    # A window has 8 x 2048 logits on each device, and its loss keeps them or their exponentials.
    assert plan["parts"]["logits"] % (4 * 8 * 2048) == 0 < plan["parts"]["logits"]
    assert 0 < plan["parts"]["saved"] < plan["parts"]["passes"] < plan["needed"] == plan["compiled"]["total"]


def test_each_remedy_is_compiled_and_those_to_take_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(run: Pretrain) -> dict[str, int]:
        saved = 4 * (run.model.remat == "block") + 3 * (run.model.precision == "mixed")
        return {"needed": 10**9 * (9 - saved), "operations": 1}

    monkeypatch.setattr(command, "make_mesh", lambda *_: None)
    monkeypatch.setattr(command, "planned_program", lambda run, _: run)
    monkeypatch.setattr(command, "compiled_step", step)
    plan = {"needed": 9 * 10**9, "memory": {"limit": 3 * 10**9}}
    found = command._remedies(defaults(Pretrain(run_dir=ROOT)), 1, plan, [])
    assert [one["words"] for one in found["together"]] == ["--remat block", "--remat block --precision mixed"]
    assert json.loads(json.dumps(found)) == found
    progress = capsys.readouterr().err.splitlines()
    assert [line.split(", compiled")[0] for line in progress if "remat block" in line] == [
        "--remat block: needs 5.00 GB", "--remat block --precision mixed: needs 2.00 GB"
    ]  # fmt: skip
    assert len(progress) == len(found["remedies"]) + 1


MISTAKES = [
    ("--accumulate 3", "--accumulate 3 must divide --batch-size 16"),
    ("--optimizer adamw --rank 4", "--rank 4 has no effect on adamw: leave it out"),
    ("--memory much", "--memory much is not a size: give a number and a unit"),
    ("--memory 24", "--memory 24 is 24 bytes, less than any device has"),
    ("--device cuda --topology v6e:1x1", "are two targets: leave one out"),
    ("--mesh fsdp=-1", "--mesh 'fsdp=-1' does not say how many devices to plan for: give all sizes"),
    ("--mesh rows=2", "has the invalid part 'rows=2'"),
    ("--mesh fsdp=8 --json /nowhere/plan.json", "--json /nowhere/plan.json cannot be written: choose"),
    ("--mesh fsdp=8 --rank 128", "--rank 128 must be below the hidden size of tiny"),
    ("--mesh fsdp=8 --batch-size 0", "--batch-size 0 must be at least 1"),
    ("--mesh fsdp=8 --model huge", "--model huge is unknown"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words.split()]) == 2
    assert message in capsys.readouterr().err


# Newer ones can do it.
EXACT_SVD = (
    [("--mesh fsdp=2 --optimizer fira", "--optimizer fira does not work on --mesh fsdp=2: an exact SVD")]
    if jax.__version_info__ < (0, 11)
    else []
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mesh fsdp=3", "over fsdp=3: choose sizes that divide"),
        ("--mesh fsdp=2 --batch-size 3", "over data x fsdp = 2 devices, but --batch-size is 3"),
        *EXACT_SVD,
    ],
)
def test_a_mesh_that_does_not_fit_the_model_is_reported(words: str, message: str) -> None:
    done = run("train", "plan", *words.split())
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_topology_without_libtpu_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--mesh", "fsdp=4", "--topology", "v5e:2x2"]) == 2
    assert "requires the TPU compiler of the package libtpu" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(find_spec("libtpu") is None, reason="the compiler of TPUs is not installed: pip install 'jax[tpu]'")
@pytest.mark.parametrize("topology", ["v5e:1x1", "v6e:1x1", "v5p:1x1x1"])
def test_the_compiler_of_a_tpu_plans_for_a_single_chip(topology: str) -> None:
    done = run("train", "plan", "--optimizer", "adamw", "--topology", topology, "--memory", "16GiB", XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Fits: yes. The step needs ")


@pytest.mark.long
@pytest.mark.skipif(find_spec("libtpu") is None, reason="the compiler of TPUs is not installed: pip install 'jax[tpu]'")
def test_the_compiler_of_a_tpu_plans_for_a_tpu_that_is_not_present(tmp_path: Path) -> None:
    """It uses reduce-scatters, and layers are counted although it does not annotate trip counts."""
    path = tmp_path / "plan.json"
    done = run("train", "plan", "--mesh", "fsdp=8", "--topology", "v5e:2x4", "--json", str(path), XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    plan = json.loads(path.read_text())
    assert plan["device"] == "TPU v5 lite"
    assert plan["compiled"]["argument"] < plan["compiled"]["peak"] <= plan["compiled"]["total"]
    assert "\npeak " in done.stdout
    kinds = {(row["kind"], row["conditional"]) for row in plan["sent"]}
    assert {("reduce-scatter", False), ("all-gather", False), ("all-reduce", True)} <= kinds
    assert max(row["times"] for row in plan["sent"] if row["kind"] == "all-gather") >= 4


def test_defaults_follow_model_optimizer_and_mesh() -> None:
    config = parse(["plan", "--model", "7b", "--optimizer", "adamw", "--mesh", "data=2,fsdp=4", "--remat", "block"])
    assert isinstance(config, Plan)
    assert (config.batch.batch_size, config.batch.seq_len, config.optimizer.rank) == (None, 256, 1024)
    planned = run_of_plan(config, 8)
    assert (planned.data.batch_size, planned.model.vocab_size, planned.model.remat) == (8, 32000, "block")
    config = parse(["plan", "--mesh", "fsdp=4", "--batch-size", "12"])
    assert isinstance(config, Plan)
    assert run_of_plan(config, 4).data.batch_size == 12
    config = parse(["plan", "--mesh", "fsdp=4", "--accumulate", "3"])
    assert isinstance(config, Plan)
    assert (run_of_plan(config, 4).data.batch_size, run_of_plan(config, 4).data.accumulate) == (12, 3)


@pytest.mark.parametrize(("model", "batch"), [("tiny", 16), ("7b", 32)])
def test_without_a_mesh_the_batch_is_that_of_pretrain(model: str, batch: int) -> None:
    config = parse(["plan", "--model", model, "--accumulate", "4"])
    assert isinstance(config, Plan)
    planned = run_of_plan(config, 1).data
    assert (planned.batch_size, planned.accumulate) == (batch, 4)
