"""A run that takes seconds, and how tests start it."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from train.config.optimizers import OPTIMIZERS
from train.storage.folder import RunFolder
from train.storage.metrics import read_rows

ROOT = Path(__file__).parents[2]
STEPS = 12
# Checkpoints at 5 and 10, evaluations at 6, new subspaces at 4 and 8: nothing coincides.
SMALL = {
    "steps": STEPS,
    "batch_size": 2,
    "seq_len": 16,
    "vocab_size": 300,
    "rank": 8,
    "update_proj_gap": 4,
    "save_every": 5,
    "eval_every": 6,
    "eval_batches": 3,
    "log_every": 3,
    "sample_tokens": 5,
}
# For losses on other devices: a fifth of the usual learning rate. Adam turns a gradient that is
# nothing but rounding into a whole step, so at 5e-3 the losses of one and of two devices differed
# by 1.4e-4 after 20 steps; at 1e-3 they stay within 5e-7 (jax 0.10 and 0.12). From one batch to the
# next they differ by 2e-3 to 5e-2, relatively.
STEADY = {"batch_size": 8, "steps": 20, "learning_rate": 1e-3}
SAME_LOSS = 1e-5


def losses(run_dir: Path) -> dict[int, float]:
    """The loss of each update so far."""
    rows = read_rows(RunFolder(run_dir).metrics)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def write_texts(folder: Path, **texts: str) -> str:
    """Write text files by name, and return the --data that reads them."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return f"files:{folder}/*.txt"


def known_to(optimizer: str, flags: Mapping[str, object]) -> dict[str, object]:
    """The flags without those that an optimizer does not have, and would be refused."""
    row = OPTIMIZERS[optimizer]
    absent = {"rank": "rank" not in row.takes, "update_proj_gap": row.update_proj_gap is None}
    return {name: value for name, value in flags.items() if not absent.get(name)}


def words_of(flags: Mapping[str, object]) -> list[str]:
    """The words of a command line. A flag that is True has no value."""
    named = ((f"--{name.replace('_', '-')}", value) for name, value in flags.items())
    return [word for flag, value in named for word in ((flag,) if value is True else (flag, str(value)))]


class Launcher:
    """Starts `python -m train` on the small corpus, in this process or in another."""

    def __init__(self, corpus: Path, caches: Path) -> None:
        self.corpus, self.caches = corpus, caches

    def arguments(self, run_dir: Path, **flags: object) -> list[str]:
        """The command line of a fresh small run, with `flags` added or replaced."""
        values = {
            "run_dir": run_dir,
            "data": f"files:{self.corpus}/**/*.py",
            "cache_dir": self.caches / "tokens",
            **known_to(str(flags.get("optimizer", "grassjump")), SMALL),
            **flags,
        }
        return ["pretrain", *words_of(values)]

    def comparison(self, run_dir: Path, *words: str, **flags: object) -> list[str]:
        """The command line of a small comparison: `words` name the optimizers and the sweeps."""
        pretrain = self.arguments(run_dir, sample_tokens=0, **flags)
        for flag in ("--update-proj-gap", "--rank"):  # which not every optimizer has
            at = pretrain.index(flag)
            pretrain = [*pretrain[:at], *pretrain[at + 2 :]]
        return ["compare", *pretrain[1:], *words]

    def start(
        self,
        arguments: list[str],
        devices: int = 1,
        variables: Mapping[str, str] = MappingProxyType({}),
        through: Sequence[str] = (),
        **options: object,
    ) -> subprocess.Popen[str]:
        """Start a process with `devices` devices, and share compiled programs with the others.

        `through` is a command that runs the one after it.
        """
        environment = {
            **os.environ,
            **variables,
            "JAX_COMPILATION_CACHE_DIR": str(self.caches / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        command = [*through, sys.executable, "-m", "train", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)  # type: ignore[call-overload]

    def finish(self, arguments: list[str], devices: int = 1, timeout: float = 200) -> str:
        """Run a process until it ends successfully, and return its output."""
        process = self.start(arguments, devices)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output
        return output

    def job(self, arguments: list[str], processes: int, devices: int, logs: Path, last: Sequence[str] = ()) -> "Job":
        """Start several processes as one run, each with `devices` CPU devices and its own log; the
        last gets more arguments. Several processes cannot share a GPU.
        """
        where = ["--distributed", "--coordinator-address", f"127.0.0.1:{free_port()}", "--num-processes", processes]
        started = []
        for number in range(processes):
            more = last if number == processes - 1 else ()
            words = [*arguments, *map(str, where), "--process-id", str(number), *more]
            with open(logs / f"{number}.log", "w") as log:
                started.append(self.start(words, devices, stdout=log, variables={"JAX_PLATFORMS": "cpu"}))
        return Job(started, [logs / f"{number}.log" for number in range(processes)])


class Job:
    """The processes of a run in progress."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]], logs: Sequence[Path]) -> None:
        self.processes, self.logs = processes, logs

    def wait(self, timeout: float) -> list[int]:
        """Return the exit statuses of the processes, which must end within `timeout` seconds."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    @property
    def output(self) -> list[str]:
        """The output of each process."""
        return [log.read_text() for log in self.logs]


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
