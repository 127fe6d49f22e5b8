"""Kills a small run again and again, at random moments and in many ways, and compares its end.

    make soak
    python -m tests.train.soak --kills 200 --folder soak --json soak.json

A round is one run: it is started and interrupted up to six times, then finished, and its metrics,
sample and every bit of its last state are compared with those of a run that nothing interrupted.
The file of results has a line for each round; the command continues where it was stopped. It takes
hours; `test_soak.py` runs one or two rounds.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.train.pretrain.test_runs import VARIANTS, assert_same_run
from tests.train.small_run import Launcher
from train.storage.checkpoint import steps_in
from train.storage.folder import versions
from train.storage.metrics import read_rows

PER_ROUND = 6  # interruptions of one run
LONGEST = 3600  # seconds of a process, on a busy machine
SIGNALS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGHUP": (signal.SIGHUP,),
}
# What happens to the files after a SIGKILL.
DAMAGES = ("a flipped bit", "a cut file", "an empty checkpoint", "half a row", "a clock that jumps", "a second process")
STATUSES = {0, -signal.SIGKILL, *(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))}


class Soak:
    """The rounds, and what they need."""

    def __init__(self, launcher: Launcher, folder: Path, variant: str = "") -> None:
        """Train without interruption; a variant is one of `test_runs`."""
        self.launcher, self.folder, self.flags = launcher, folder, VARIANTS.get(variant, {})
        self.reference = folder / f"reference-{variant or 'plain'}-{versions()['commit'][:12]}"
        if not (self.reference / "summary.json").exists():
            shutil.rmtree(self.reference, ignore_errors=True)
            launcher.finish(launcher.arguments(self.reference, **self.flags), timeout=LONGEST)
        start = time.monotonic()  # compiled programs and tokens are there: this is how long a round takes
        launcher.finish(launcher.arguments(folder / f"timed{os.getpid()}", **self.flags), timeout=LONGEST)
        self.seconds = time.monotonic() - start
        shutil.rmtree(folder / f"timed{os.getpid()}")

    def round(self, number: int, most: int) -> dict[str, Any]:
        """Interrupt one run up to `most` times, finish it, and compare; return what happened.

        An interruption after which there is a summary is not counted: the run may have ended first.
        """
        draw, run_dir = random.Random(number), self.folder / f"round{number}"
        shutil.rmtree(run_dir, ignore_errors=True)
        more = {"cache_dir": run_dir.with_name(f"cache{number}")} if draw.random() < 0.25 else {}
        happened, began = [], time.monotonic()
        for _ in range(most):
            row = self.interruption(draw, run_dir, more)
            if (run_dir / "summary.json").exists():
                break
            happened.append(row)
        self.launcher.finish(self.command(run_dir, more), timeout=LONGEST)
        assert_same_run(run_dir, self.reference)
        for path in (run_dir, more.get("cache_dir")):
            if path is not None:
                shutil.rmtree(path)
        return {"round": number, "interruptions": happened, "seconds": round(time.monotonic() - began, 1)}

    def interruption(self, draw: random.Random, run_dir: Path, more: dict[str, Any]) -> dict[str, Any]:
        """Start or resume the run, and interrupt it at a random moment."""
        name, is_whole = draw.choice([*SIGNALS, *DAMAGES]), not self.is_begun(run_dir)
        process = self.launcher.start(self.command(run_dir, more))
        while not answers_signals(process):
            time.sleep(1e-3)
        moment, began = draw.uniform(0, self.seconds), time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
            if is_whole:  # the machine may be less busy by now
                self.seconds = min(self.seconds, time.monotonic() - began)
        second = self.launcher.start(self.command(run_dir, more)) if name == "a second process" else None
        for number in SIGNALS.get(name, (signal.SIGKILL,)):
            if process.poll() is None:
                os.kill(process.pid, number)
        output, _ = process.communicate(timeout=LONGEST)
        if not (run_dir / "summary.json").exists():  # after it, Python ends, and signals have its own answer
            assert process.returncode in STATUSES, (name, process.returncode, output)
            assert "Traceback" not in output, (name, output)
        if second is not None:  # refused, or it takes over; either way the first one lost nothing
            second.kill()
            second.communicate()
        row = {"what": name, "after": round(moment, 2), "status": process.returncode}
        return row | {"step": last_step(run_dir), "checkpoints": spoil(draw, name, run_dir)}

    def command(self, run_dir: Path, more: dict[str, Any]) -> list[str]:
        """Return the command line that starts the run, or resumes it once it has an update, or the
        checkpoint of a signal before the first one.
        """
        if self.is_begun(run_dir):
            return ["pretrain", "--run-dir", str(run_dir), "--resume"]
        return self.launcher.arguments(run_dir, **self.flags, **more)

    def is_begun(self, run_dir: Path) -> bool:
        """Whether a run is to be resumed."""
        return bool(last_step(run_dir) or checkpoints_of(run_dir))


def answers_signals(process: subprocess.Popen[str]) -> bool:
    """Whether a process has ended, or catches SIGTERM and SIGHUP, unless it ignores the latter;
    before, a signal has Python's own answer.
    """
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught, ignored = (
        int(re.search(rf"^{name}:\s*(\w+)", status, re.MULTILINE)[1], 16) for name in ("SigCgt", "SigIgn")
    )
    return bool(caught >> (signal.SIGTERM - 1) & (caught | ignored) >> (signal.SIGHUP - 1) & 1)


def last_step(run_dir: Path) -> int:
    """Return the last update that the metrics have."""
    return max((row["step"] for row in read_rows(run_dir / "metrics.jsonl") if "loss" in row), default=0)


def checkpoints_of(run_dir: Path) -> list[int]:
    """Return the steps of the checkpoints."""
    folder = run_dir / "checkpoints"
    return steps_in(folder) if folder.is_dir() else []


def spoil(draw: random.Random, name: str, run_dir: Path) -> list[int]:
    """Damage the files of a run that continues, but never its last intact checkpoint; return its
    checkpoints.
    """
    checkpoints, steps = run_dir / "checkpoints", checkpoints_of(run_dir)
    if len(steps) > 1 and name in DAMAGES[:3] and not (run_dir / "summary.json").exists():
        newest = checkpoints / str(steps[-1])
        files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
        if name == "an empty checkpoint":
            shutil.rmtree(newest)
            newest.mkdir()
        elif files:  # none if it was emptied before
            content = bytearray((path := draw.choice(files)).read_bytes())
            if name == "a flipped bit":
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
                path.write_bytes(content)
            else:
                path.write_bytes(content[: draw.randrange(len(content))])
    is_finished = (run_dir / "summary.json").exists()  # it writes no more rows, so none can be cut
    if name == "half a row" and not is_finished and (path := run_dir / "metrics.jsonl").exists():
        with open(path, "a") as file:
            file.write('{"step": 99, "lo')
    if name == "a clock that jumps" and run_dir.exists():
        for path in run_dir.rglob("*"):
            os.utime(path, (draw.choice((0, 2**32)),) * 2)
    return steps


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    """Mount a file system of this size, which only root may."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1e6)}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_disks(soak: Soak, sizes: list[float]) -> Iterator[dict[str, Any]]:
    """Run on disks that are too small, then give each room, resume, and compare."""
    for megabytes in sizes:
        folder = soak.folder / "disk"
        with small_disk(folder, megabytes):
            process = soak.launcher.start(soak.command(folder / "run", {}))
            output, _ = process.communicate(timeout=LONGEST)
            lines = [line for line in output.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in output, output
            assert (process.returncode, len(lines)) in ((0, 0), (2, 1)), (process.returncode, output)
            row = {"megabytes": megabytes, "status": process.returncode, "step": last_step(folder / "run")}
            subprocess.run(["mount", "-o", "remount,size=100000000", folder], check=True)
            soak.launcher.finish(soak.command(folder / "run", {}), timeout=LONGEST)
            assert_same_run(folder / "run", soak.reference)
        yield row | {"error": lines}


def rounds_of(path: Path) -> list[dict[str, Any]]:
    """Return the rounds so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(arguments: list[str]) -> None:
    """Run the rounds that are missing, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="interruptions in all")
    parser.add_argument("--folder", type=Path, required=True, help="for runs and caches")
    parser.add_argument("--json", type=Path, required=True, help="results: a line for each round")
    parser.add_argument("--variant", choices=["", *VARIANTS], default="", help="of the run; give a --json of its own")
    parser.add_argument("--disks", type=float, nargs="*", default=[], help="sizes in MB of disks to fill; needs root")
    args = parser.parse_args(arguments)
    corpus = args.folder / "corpus"
    for package in ("json", "email", "html"):
        source = Path(os.__file__).parent / package
        shutil.copytree(source, corpus / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    soak = Soak(Launcher(corpus.absolute(), (args.folder / "caches").absolute()), args.folder.absolute(), args.variant)
    rounds = rounds_of(args.json)
    while (count := sum(len(row["interruptions"]) for row in rounds)) < args.kills:
        rounds.append(soak.round(len(rounds), min(PER_ROUND, args.kills - count)))
        with open(args.json, "a") as file:
            file.write(json.dumps(rounds[-1]) + "\n")
        print(f"{len(rounds)} rounds, {count + len(rounds[-1]['interruptions'])} interruptions", flush=True)
    for row in fill_disks(soak, args.disks):
        print(json.dumps(row), flush=True)
    names = [entry["what"] for row in rounds for entry in row["interruptions"]]
    print(f"{len(rounds)} runs, all the same bit for bit; {len(names)} interruptions:")
    for name in [*SIGNALS, *DAMAGES]:
        print(f"{names.count(name):6}  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
