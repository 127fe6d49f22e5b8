"""`make train` installs JAX for the device, and trains on it."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry_run(*words: str) -> subprocess.CompletedProcess[str]:
    line = ["make", "--dry-run", "--always-make", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("device", "extras"), [("cpu", "train"), ("cuda", "train,cuda"), ("tpu", "train,tpu")])
@pytest.mark.parametrize("target", ["train", "compare"])
def test_a_device_has_its_extra_and_its_platform(target: str, device: str, extras: str) -> None:
    made = dry_run(target, f"DEVICE={device}")
    assert made.returncode == 0, made.stderr
    assert f"--editable '.[{extras}]'" in made.stdout
    assert f"JAX_PLATFORMS={device} .venv/bin/python -m train" in made.stdout
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys()


def test_another_device_is_refused() -> None:
    made = dry_run("train", "DEVICE=gpu")
    assert made.returncode == 2
    assert "DEVICE=gpu must be one of cpu, cuda, tpu" in made.stderr
