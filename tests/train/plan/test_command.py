"""`train plan`: compared with the step that runs, and every mistake in one line."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from jax.experimental import topologies

from tests.train.small_run import ROOT
from train.__main__ import main, parse
from train.config.run import UserError
from train.plan import command
from train.plan import report as plan_report
from train.plan.config import Plan, run_of_plan


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, settings = [sys.executable, "-m", *words], os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=280, check=False)


def test_the_command_plans_for_devices_that_are_not_present(tmp_path: Path) -> None:
    """With one window per device, and the size of AdamW's state for comparison."""
    path = tmp_path / "plan.json"
    words = ("--model", "tiny", "--optimizer", "column_sgd", "--mesh", "data=2,fsdp=4", "--seq-len", "8")
    done = run("train", "plan", *words, "--json", str(path))
    assert done.returncode == 0, done.stderr
    plan = json.loads(path.read_text())
    assert (plan["devices"], plan["device"], plan["flags"]["batch_size"]) == (8, "cpu", 8)
    assert plan["bytes"]["optimizer_state"] < plan["bytes"]["adamw_state"]
    assert plan["compiled"]["total"] > plan["bytes"]["parameters"] + plan["bytes"]["optimizer_state"]
    assert {row["group_size"] for row in plan["sent"]} >= {2, 4}
    assert plan_report.text(plan) == done.stdout.rstrip("\n")
    for part in ("8 windows of 8 tokens per batch, 1 per device", "exact; AdamW's would be", "simulated CPU devices"):
        assert part in done.stdout


MISTAKES = [
    ("", "--mesh '' does not say how many devices to plan for: give all sizes"),
    ("--mesh fsdp=-1", "--mesh 'fsdp=-1' does not say how many devices"),
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


def fake_topologies(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def description(platform: str, topology_name: str) -> Any:
        assert platform == "tpu"
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(devices=[None] * answer)

    monkeypatch.setattr(topologies, "get_topology_desc", description)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (4, "--topology v5e:2x4 has 4 devices, but --mesh has 8: make the two numbers equal"),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no such"), "libtpu rejects it .* Give a generation"),
        (jax.errors.JaxRuntimeError("ABORTED: a lock"), "serves one process of a machine at a time"),
        (RuntimeError("not installed"), "pip install 'jax\\[tpu\\]'"),
    ],
)
def test_an_impossible_topology_is_reported(monkeypatch: pytest.MonkeyPatch, answer: Any, message: str) -> None:
    fake_topologies(monkeypatch, answer)
    with pytest.raises(UserError, match=message):
        command.tpu_devices("v5e:2x4", 8)


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_topology_without_libtpu_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--mesh", "fsdp=4", "--topology", "v5e:2x2"]) == 2
    assert "requires the TPU compiler of the package libtpu" in capsys.readouterr().err


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


def test_a_program_that_does_not_fit_is_a_line_of_the_plan() -> None:
    class Step:
        def lower(self, *_: object) -> Any:
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {reason}\n\nLargest allocations: ...")

    reason = "Ran out of memory on HBM, the total memory required (23.88G) exceeds available HBM (15.75G)."
    plan = command.compiled_step(SimpleNamespace(train_step=Step(), state=None, batch=None))  # type: ignore[arg-type]
    assert plan == {"does_not_fit": reason, "compiled": None, "sent": None}
    held = dict.fromkeys(("parameters", "optimizer_state", "batch", "gradients", "adamw_state"), 10**6)
    flags = dict.fromkeys(("precision", "logits", "remat", "seq_len", "rank", "model", "optimizer"), "x")
    mesh = {"data": 1, "fsdp": 2, "tensor": 1}
    shown = plan_report.text({
        "bytes": held, "flags": flags | {"batch_size": 2, "accumulate": 1}, "mesh": mesh, "parameters": 9, "devices": 2,
        "topology": "v5e:1x2", "device": "TPU", "compile_seconds": 1.0, **plan,
    })  # fmt: skip
    assert shown.endswith(f"Does not fit. {reason}")


def test_other_errors_of_the_compiler_are_not_hidden() -> None:
    class Step:
        def lower(self, *_: object) -> Any:
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        command.compiled_step(SimpleNamespace(train_step=Step(), state=None, batch=None))  # type: ignore[arg-type]


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
