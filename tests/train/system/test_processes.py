"""Several processes on one machine as one run: they start, agree, lose one, stop together, and
resume as others.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests.train.small_run import ROOT, SAME_LOSS, STEADY, Job, Launcher, free_port, losses
from train.config.machine_flags import ProcessFlags
from train.config.run import UserError
from train.program import sharding
from train.system import processes
from train.system.processes import joined

LOST_AFTER = 10  # seconds without a heartbeat
MISSED = "died: it failed, was killed, or lost contact with another process"


class Shape(NamedTuple):
    """The processes of a run."""

    processes: int
    devices: int  # of each
    mesh: str


# (the processes at the start, the one that is killed, those that resume, those that finish)
CASES = [
    (Shape(2, 1, "fsdp=2"), 1, Shape(1, 2, "data=2"), Shape(2, 1, "tensor=2")),
    (Shape(2, 2, "data=2,fsdp=2"), 1, Shape(4, 1, "fsdp=2,tensor=2"), Shape(2, 1, "fsdp=2")),
    (Shape(4, 2, "data=2,fsdp=2,tensor=2"), 0, Shape(2, 2, "fsdp=4"), Shape(1, 8, "data=2,fsdp=4")),
    (Shape(4, 1, "fsdp=4"), 3, Shape(2, 4, "data=4,fsdp=2"), Shape(4, 1, "data=2,tensor=2")),
]


def wait_for_step(job: Job, run_dir: Path, step: int) -> None:
    """Return when a checkpoint of `step` exists and the run is beyond it."""
    while not ((run_dir / "checkpoints" / str(step)).exists() and max(losses(run_dir), default=0) > step):
        assert all(process.poll() is None for process in job.processes), job.output
        time.sleep(2e-3)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("begun", "victim", "resumed", "ends"),
    [
        pytest.param(*case, id=f"{case[0].processes}x{case[0].devices}-{case[1]}", marks=pytest.mark.long)
        for case in CASES
    ],
)
def test_a_lost_process_ends_the_job_and_others_resume(
    begun: Shape, victim: int, resumed: Shape, ends: Shape, launcher: Launcher, tmp_path: Path
) -> None:
    """One is killed, and the others exit; another number of processes on another mesh resumes until
    one of them gets SIGTERM, which stops all at one step; a third number finishes. The losses are
    those of one device.
    """
    one, run_dir = tmp_path / "one", tmp_path / "run"
    launcher.finish(launcher.arguments(one, **STEADY))
    expected = losses(one)
    assert list(expected) == list(range(1, 21))

    fresh = launcher.arguments(run_dir, **STEADY, mesh=begun.mesh)
    lost = ["--heartbeat-timeout", str(LOST_AFTER)]
    job = launcher.job([*fresh, *lost], begun.processes, begun.devices, tmp_path)
    wait_for_step(job, run_dir, 5)
    job.processes[victim].kill()
    killed = time.monotonic()
    statuses = job.wait(4 * LOST_AFTER)
    assert time.monotonic() - killed < 3 * LOST_AFTER
    assert statuses.pop(victim) == -signal.SIGKILL
    assert 0 not in statuses
    while not all(MISSED in output and "add --resume" in output for output in job.output):
        assert time.monotonic() - killed < 4 * LOST_AFTER, job.output  # the last words come after the exit
        time.sleep(0.1)
    assert not (run_dir / "summary.json").exists()

    resume = ["pretrain", "--run-dir", str(run_dir), "--resume"]
    job = launcher.job([*resume, "--mesh", resumed.mesh], resumed.processes, resumed.devices, tmp_path)
    wait_for_step(job, run_dir, 10)
    job.processes[-1].send_signal(signal.SIGTERM)
    assert job.wait(120) == [0] * resumed.processes, job.output
    assert "saved after step" in job.output[0]
    assert "saved after step" not in "".join(job.output[1:])
    stopped_at = max(losses(run_dir))
    assert (run_dir / "checkpoints" / str(stopped_at)).exists()
    assert 10 < stopped_at < 20

    for message in ("bits_per_byte", "is finished"):  # the second time there is nothing left to do
        job = launcher.job([*resume, "--mesh", ends.mesh], ends.processes, ends.devices, tmp_path)
        assert job.wait(200) == [0] * ends.processes, job.output
        assert message in job.output[0]
        assert message not in "".join(job.output[1:])
    assert (run_dir / "sample.txt").read_text().startswith("def ")
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 20
    actual = losses(run_dir)
    assert list(actual) == list(expected)
    np.testing.assert_allclose(list(actual.values()), list(expected.values()), rtol=SAME_LOSS)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_one_process_stops_all(number: signal.Signals, launcher: Launcher, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = launcher.job(launcher.arguments(run_dir, **STEADY | {"mesh": "data=2", "steps": 2000}), 2, 1, tmp_path)
    wait_for_step(job, run_dir, 5)
    job.processes[1].send_signal(number)
    assert job.wait(200) == [0, 0], job.output
    assert "saved after step" in job.output[0]
    assert f"{number.name}: all processes stop at the next safe point" in job.output[1]
    assert (run_dir / "checkpoints" / str(max(losses(run_dir)))).exists()
    assert not any(MISSED in output for output in job.output)


# How they agree


def slurm(number: int, port: int) -> dict[str, str]:
    """The environment of one of two SLURM processes on this machine, with a free port."""
    names = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID", "STEP_NUM_NODES")
    values = (17, "localhost", 2, number, number, 1)
    variables = {f"SLURM_{name}": str(value) for name, value in zip(names, values, strict=True)}
    return variables | {"JAX_COORDINATOR_PORT": str(port)}


def test_two_processes_agree() -> None:
    """Runs `two_processes.py` in two processes that find each other as under SLURM."""
    port = free_port()
    script = str(Path(__file__).parent / "two_processes.py")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "JAX_PLATFORMS": "cpu",  # two processes cannot share a GPU
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, script],
            env=environment | slurm(number, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert "all agreed" in output
        assert MISSED not in output


def test_an_error_in_one_process_is_reported_by_all(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"data_fingerprint": "2-0"}')
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    job = launcher.job(launcher.arguments(tmp_path / "run", mesh="data=2"), 2, 1, tmp_path)
    assert job.wait(120) == [2, 2], job.output
    for output in job.output:
        assert "error: process 0 of 2: --run-dir" in output
        assert "already contains a run" in output
        assert MISSED not in output


@pytest.mark.long
def test_different_flags_in_one_process_are_reported_by_all(launcher: Launcher, tmp_path: Path) -> None:
    arguments = launcher.arguments(tmp_path / "run", mesh="data=2")
    job = launcher.job(arguments, 2, 1, tmp_path, last=["--seq-len", "999999", "--steps", "-3"])
    assert job.wait(120) == [2, 2], job.output
    for output in job.output:
        assert "process 1 was given --seq-len 999999, but process 0 --seq-len 16: give all" in output
    assert not (tmp_path / "run").exists()


def test_a_process_without_others_to_join_is_reported(launcher: Launcher, tmp_path: Path) -> None:
    process = launcher.start(["pretrain", "--run-dir", str(tmp_path / "run"), "--distributed"])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--distributed could not connect to the other processes" in output
    assert "--coordinator-address HOST:PORT" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (ProcessFlags(num_processes=2), "--num-processes only applies to a multi-process run: add --distributed"),
        (ProcessFlags(process_id=0), "--process-id only applies to a multi-process run: add --distributed"),
        (ProcessFlags(distributed=True, heartbeat_timeout=0), "--heartbeat-timeout 0 must be at least 1"),
    ],
)
def test_wrong_process_flags_are_reported(flags: ProcessFlags, message: str) -> None:
    with pytest.raises(UserError, match=message), joined(flags, ""):
        raise AssertionError


def test_several_processes_need_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding.jax, "process_count", lambda: 2)
    with pytest.raises(
        UserError, match=f"--distributed has {jax.device_count()} devices in 2 processes, but no --mesh"
    ):
        sharding.make_mesh("", 8)


def test_a_full_disk_of_one_process_is_an_error_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", lambda text: ["", text])

    def fail() -> None:
        raise OSError(errno.ENOSPC, "full", "/x/config.json")

    with pytest.raises(UserError, match=r"process 1 of 2: there is no room to write \(No space .*: /x/config.json\)"):
        processes.everywhere(fail)
