"""One small corpus, and caches of tokens and compiled programs, for all tests of the trainer."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.train.foreign import write_foreign
from tests.train.foreign_encoders import write_import
from tests.train.small_run import Launcher
from train.__main__ import main


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred kilobytes of the standard library."""
    folder = tmp_path_factory.mktemp("corpus")
    for package in ("json", "email", "html"):
        source = Path(sys.modules["os"].__file__ or "").parent / package
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def launcher(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(corpus, tmp_path_factory.mktemp("caches"))


@pytest.fixture(autouse=True)
def _no_programs_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX reads its setting once, so a command that runs in this process must not change it."""
    for command in ("pretrain", "finetune", "sample", "evaluate"):
        monkeypatch.setattr(f"train.{command}.command.keep_programs", lambda _: None)


@pytest.fixture
def compiled(launcher: Launcher) -> Iterator[None]:
    """Let this process share compiled programs too."""
    settings = {
        "jax_compilation_cache_dir": str(launcher.caches / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def trained(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    launcher.finish(launcher.arguments(run_dir, optimizer="adamw", learning_rate=0.02))
    return run_dir


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small import, beside the one that it was imported from."""
    folder = tmp_path_factory.mktemp("imported")
    source = write_foreign(folder / "theirs")
    assert main(["import", "--from", str(source), "--out", str(folder / "ours")]) == 0
    return folder / "ours"


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of eight words without a head, as an import has it."""
    return write_import(tmp_path_factory.mktemp("encoder"))
