"""What a process of the trainer says, and when, with the environment of a user."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.small_run import write_texts


def started(words: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | variables
    with log.open("wb") as output:
        command = [sys.executable, "-m", "train", *words]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def test_a_log_grows_while_a_text_is_prepared(tmp_path: Path) -> None:
    corpus = write_texts(tmp_path, a="some words of a text\n" * 400_000)
    words = ["pretrain", "--data", corpus, "--data-megabytes", "0", "--cache-dir", str(tmp_path / "cache")]
    process = started([*words, "--run-dir", str(tmp_path / "run")], tmp_path / "log")
    try:
        deadline, log = time.monotonic() + 200, b""
        while b"training a tokenizer" not in log:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
            log = (tmp_path / "log").read_bytes()
        assert b"parameters" not in log  # by then a run has begun, which flushes everything
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["pretrain --run-dir x --steps 1", "import --from x --out y"])
def test_a_platform_without_devices_is_named(command: str, tmp_path: Path) -> None:
    platform = "tpu" if shutil.which("nvidia-smi") else "cuda"  # no machine has both
    process = started(command.split(), tmp_path / "log", JAX_PLATFORMS=platform)
    assert process.wait(200) == 2
    lines = (tmp_path / "log").read_text().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert f"JAX can use no device of JAX_PLATFORMS={platform}" in error
    assert not any("Traceback" in line for line in lines)
