"""Where compiled programs are kept, and that a second start uses them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.train.small_run import ROOT, Launcher, losses
from train.__main__ import main
from train.system.compilation import keep_programs, processor


@pytest.fixture
def setting() -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("setting")
def test_programs_are_kept_for_this_processor_unless_the_user_has_a_folder(tmp_path: Path) -> None:
    keep_programs(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "programs" / processor())
    keep_programs(tmp_path / "another")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "programs" / processor())


@pytest.mark.long
def test_a_second_start_reads_the_programs_and_has_the_same_losses(launcher: Launcher, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    for name in ("one", "two"):
        words = launcher.arguments(tmp_path / name, cache_dir=tmp_path / "cache", steps=4)
        environment["JAX_LOG_COMPILES"] = "1"
        done = subprocess.run(
            [sys.executable, "-m", "train", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        hits = done.stderr.count("Persistent compilation cache hit for 'jit_train_step'")
        assert hits == (0 if name == "one" else 1)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert list((tmp_path / "cache" / "programs" / processor()).glob("jit_train_step-*"))


@pytest.mark.parametrize("command", ["pretrain", "finetune", "sample", "evaluate"])
def test_every_command_that_computes_keeps_programs(
    command: str, imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"train.{command}.command.keep_programs", reached)
    start = ["--init-from", str(imported), "--data", "files:x"] if command == "finetune" else []
    assert main([command, "--run-dir", str(tmp_path), *start]) == 130
