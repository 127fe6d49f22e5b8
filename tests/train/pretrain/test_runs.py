"""Whole runs: the files they write, which no interruption changes by a bit."""

import itertools
import json
import math
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from tests.train.small_run import ROOT, SAME_LOSS, STEADY, STEPS, Launcher, losses
from tests.util import long_but
from train.__main__ import main, parse
from train.config.run import Pretrain
from train.config.stored import settings_of
from train.data.tokenizer import END_OF_TEXT
from train.data.tokens import load_tokens
from train.data.windows import Windows, held_out_batches
from train.loop import trainer
from train.loop.trainer import Trainer
from train.pretrain import command
from train.program.optimizer import make_optimizer
from train.program.program import pretraining
from train.program.sharding import make_mesh
from train.program.step import TrainState, first_state
from train.storage.checkpoint import Checkpoints
from train.storage.folder import RunFolder
from train.system import signals
from train.system.files import locked

Row = dict[str, Any]


def rows(run_dir: Path) -> list[Row]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def numbers(run_dir: Path) -> list[Row]:
    """All measurements of a run except its times."""
    times = ("tokens_per_second", "seconds")
    return [{key: row[key] for key in row if key not in times} for row in rows(run_dir)]


def final_state(run_dir: Path) -> TrainState:
    config = RunFolder(run_dir).stored().config
    tx = make_optimizer(config.optimizer, config.schedule, config.data.seed)
    task = pretraining(config.model, config.data, make_mesh("", config.data.batch_size))
    abstract = jax.eval_shape(lambda: first_state(task.draw(config.data.seed), tx))
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        return checkpoints.restore(STEPS, abstract)


def assert_same_run(run_dir: Path, other: Path) -> None:
    """Compare every loss, learning rate and evaluation, and every bit of the last state."""
    assert numbers(run_dir) == numbers(other)
    states = final_state(run_dir), final_state(other)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for x, y in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    assert (run_dir / "sample.txt").read_text() == (other / "sample.txt").read_text()


# Runs that are more than an optimizer.
VARIANTS: dict[str, dict[str, object]] = {
    "in_backward": {"update_in_backward": True, "clip_by": "previous", "clip": 0.5, "keep_every": 2},
    # Read three times, and again within an accumulated batch: epochs end at windows 20, 40 and 60.
    "short_text": {"batch_size": 6, "accumulate": 2, "data_megabytes": 0.0006},
}


class Finished:
    """An uninterrupted run, made once for each variant."""

    def __init__(self, launcher: Launcher, run_dir: Path, variant: str) -> None:
        self.run_dir, self.flags = run_dir, VARIANTS.get(variant, {"optimizer": variant})
        self.output = launcher.finish(launcher.arguments(run_dir, **self.flags))


@pytest.fixture(scope="session")
def finished(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    runs: dict[str, Finished] = {}

    def make(variant: str) -> Finished:
        if variant not in runs:
            runs[variant] = Finished(launcher, tmp_path_factory.mktemp("runs") / "x", variant)
        return runs[variant]

    return make


@pytest.fixture(scope="session")
def adamw(finished: Callable[[str], Finished]) -> Finished:
    return finished("adamw")


def wait_for(process: subprocess.Popen[str], happened: Callable[[], object]) -> None:
    """Return as soon as `happened`, which must be while the process is alive."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(1e-3)


def has_rows(run_dir: Path, count: int) -> bool:
    path = run_dir / "metrics.jsonl"
    return path.exists() and path.read_bytes().count(b'"loss"') >= count


def metrics_file(run_dir: Path) -> int | None:
    """Identify the file of a process, which the next process replaces."""
    path = run_dir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def is_saving(run_dir: Path, step: int) -> bool:
    return any((run_dir / "checkpoints").glob(f"{step}.*tmp*"))


# The files of a run


@pytest.mark.parametrize("variant", long_but(["grassjump"], ["grassjump", "grasswalk", "adamw", *VARIANTS]))
def test_a_run_writes_its_files(variant: str, finished: Callable[[str], Finished]) -> None:
    run_dir = finished(variant).run_dir
    updates = [row for row in rows(run_dir) if "loss" in row]
    evaluations = [row for row in rows(run_dir) if "eval_loss" in row]
    assert [row["step"] for row in updates] == list(range(1, STEPS + 1))
    assert [row["step"] for row in evaluations] == [0, 6, STEPS]
    assert updates[0]["loss"] == pytest.approx(math.log(300), rel=0.02)
    assert all(row.keys() == {"step", "loss", "lr", "tokens_per_second", "seconds", "tokens"} for row in updates)
    assert [row["seconds"] for row in updates] == sorted(row["seconds"] for row in updates)
    assert updates[-1]["tokens"] == STEPS * int(str(VARIANTS.get(variant, {}).get("batch_size", 2))) * 16
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    kept = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert kept == ["10", "12"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["attention"] == "xla"
    assert summary["eval_loss"] == evaluations[-1]["eval_loss"]
    assert summary["bits_per_byte"] == evaluations[-1]["bits_per_byte"]
    assert (summary["first_train_loss"], summary["last_train_loss"]) == (
        updates[0]["loss"],
        updates[-1]["loss"],
    )
    slowest, *_, fastest = sorted(row["tokens_per_second"] for row in updates)
    assert slowest < summary["tokens_per_second"] < fastest
    state = final_state(run_dir)
    assert summary["optimizer_bytes"] == sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
    assert summary["parameters"] == sum(x.size for x in jax.tree.leaves(state.params))
    assert (run_dir / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_configuration_is_complete(adamw: Finished) -> None:
    content = json.loads((adamw.run_dir / "config.json").read_text())
    config = RunFolder(adamw.run_dir).stored().config
    assert content["config"] == settings_of(config)
    assert content["versions"]["jax"] == jax.__version__
    tokens = load_tokens(config.data, config.model.vocab_size, say=pytest.fail)
    assert content["data_fingerprint"] == tokens.fingerprint


def test_evaluation_bytes_are_those_of_the_predicted_tokens(adamw: Finished) -> None:
    config = RunFolder(adamw.run_dir).stored().config
    tokens = load_tokens(config.data, config.model.vocab_size)
    batches = held_out_batches(tokens.held_out, config.data, config.report.eval_batches)
    predicted = [window[1:].tolist() for batch in batches for window in batch]
    assert len(predicted) == 3 * 2
    end = tokens.tokenizer.token_to_id(END_OF_TEXT)
    spelt = [tokens.tokenizer.id_to_token(t) for window in predicted for t in window if t != end]
    evaluation = rows(adamw.run_dir)[-1]
    nats = evaluation["eval_loss"] * sum(map(len, predicted))
    expected = nats / math.log(2) / sum(map(len, spelt))
    assert evaluation["bits_per_byte"] == pytest.approx(expected, rel=1e-12)


def test_without_a_terminal_lines_are_plain(adamw: Finished) -> None:
    assert "\x1b" not in adamw.output
    assert "\r" not in adamw.output
    shown = re.findall(r"^step (\d+)/12 \(\d+%\)  loss \S+  lr \S+  \S+ tokens/s  ETA", adamw.output, re.M)
    assert shown == ["3", "6", "9", "12"]
    sample = (adamw.run_dir / "sample.txt").read_text()
    assert sample.startswith("def ")
    assert sample in adamw.output
    assert "bits_per_byte" in adamw.output


def test_on_a_terminal_a_live_line_is_redrawn(launcher: Launcher, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = launcher.arguments(tmp_path / "run", optimizer="adamw")
    process = launcher.start(arguments, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # how Linux ends a terminal
            break
    os.close(ours)
    assert process.wait() == 0, shown
    assert re.search(rb"\r\x1b\[2K|\x1b\[1A", shown)  # the line is redrawn
    assert re.search(rb"step 12/12 \(100%\)  loss \S+  lr \S+  \S+ tokens/s  ETA 0:00:00", shown)


# Existing runs


def everything(run_dir: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_used_folder_is_refused(adamw: Finished, launcher: Launcher, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(adamw.run_dir)
    assert main(launcher.arguments(adamw.run_dir, **adamw.flags)) == 2
    assert "already contains a run: add --resume" in capsys.readouterr().err
    assert everything(adamw.run_dir) == before


def test_resuming_a_finished_run_reports_its_end(adamw: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(adamw.run_dir)
    assert main(["pretrain", "--run-dir", str(adamw.run_dir), "--resume", "--steps", "12"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert everything(adamw.run_dir) == before


def test_a_resumed_run_refuses_other_flags(adamw: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(adamw.run_dir)
    words = ["--resume", "--steps", "11", "--optimizer", "grassjump"]
    assert main(["pretrain", "--run-dir", str(adamw.run_dir), *words]) == 2
    error = capsys.readouterr().err
    assert "--steps 11 (the run has 12)" in error
    assert "--optimizer grassjump (the run has adamw)" in error
    assert "--rank" not in error
    assert everything(adamw.run_dir) == before


@pytest.mark.usefixtures("compiled")
def test_a_state_is_saved_every_so_many_minutes(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute passes at each look at the clock; after a save it is looked at once more."""
    clock = itertools.count(0, 30)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(clock), perf_counter=time.perf_counter))
    flags = {"save_every": 1000, "save_minutes": 1.5, "keep": 100, "eval_every": 0, "optimizer": "adamw"}
    assert main(launcher.arguments(tmp_path / "run", **flags)) == 0
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdecimal())
    assert kept == [3, 6, 9, 12]


@pytest.mark.usefixtures("compiled")
def test_a_finished_run_is_extended_and_keeps_the_rows_that_it_has(
    adamw: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, before = tmp_path / "run", rows(adamw.run_dir)
    shutil.copytree(adamw.run_dir, run_dir)
    resume = ["pretrain", "--run-dir", str(run_dir), "--resume"]
    assert main([*resume, "--steps", "18"]) == 0
    after = rows(run_dir)
    assert after[: len(before)] == before
    assert [row["step"] for row in after if "loss" in row] == list(range(1, 19))
    assert [row["step"] for row in after if "eval_loss" in row] == [0, 6, 12, 18]
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 18
    assert RunFolder(run_dir).stored().config.schedule.steps == 18
    assert main([*resume, "--steps", "12"]) == 2
    assert "--steps 12 (the run has 18)" in capsys.readouterr().err
    assert rows(run_dir) == after


def test_a_folder_is_used_by_one_process_at_a_time(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "run"):
        assert main(launcher.arguments(tmp_path / "run")) == 2
    assert "another process is training" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_config_file_repeats_a_run_bit_for_bit(adamw: Finished, launcher: Launcher, tmp_path: Path) -> None:
    config = adamw.run_dir / "config.json"
    launcher.finish(["pretrain", "--run-dir", str(tmp_path / "run"), "--config", str(config)])
    assert_same_run(tmp_path / "run", adamw.run_dir)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(config.read_text())


def test_a_flag_overrides_the_config_file_of_a_run(adamw: Finished, launcher: Launcher, tmp_path: Path) -> None:
    arguments = ["pretrain", "--run-dir", str(tmp_path / "run"), "--config", str(adamw.run_dir / "config.json")]
    launcher.finish([*arguments, "--steps", "3", "--sample-tokens", "0"])
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert len(losses) == 3
    assert losses[0] == next(row["loss"] for row in rows(adamw.run_dir) if "loss" in row)


def test_a_run_of_an_older_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"config": {"model": "tiny", "steps": 3}, "data_fingerprint": "", "versions": {}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert main(["pretrain", "--run-dir", str(tmp_path), "--resume"]) == 2
    assert "was written by an older version, whose settings were not grouped" in capsys.readouterr().err


# Interruptions


@pytest.mark.parametrize("variant", long_but(["grassjump"], ["adamw", "grassjump", *VARIANTS]))
def test_kills_change_nothing(
    variant: str,
    finished: Callable[[str], Finished],
    launcher: Launcher,
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    fresh = launcher.arguments(run_dir, **finished(variant).flags)
    resume = ["pretrain", "--run-dir", str(run_dir), "--resume"]
    draw = random.Random(variant)
    early, late = draw.randint(1, 4), draw.randint(6, 11)
    moments: list[Callable[[], bool]] = [
        lambda: has_rows(run_dir, early),  # before the first checkpoint
        lambda: is_saving(run_dir, 10),
        lambda: has_rows(run_dir, late),
        lambda: (run_dir / "checkpoints" / "12").exists(),  # only the results are missing
    ]
    for moment, arguments in zip(moments, (fresh, resume, resume, resume), strict=True):
        before = metrics_file(run_dir)
        process = launcher.start(arguments)
        wait_for(process, lambda before=before: metrics_file(run_dir) != before)
        wait_for(process, moment)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (run_dir / "summary.json").exists()
    launcher.finish(resume)
    assert_same_run(run_dir, finished(variant).run_dir)


def test_the_short_text_is_read_again_within_a_batch(launcher: Launcher) -> None:
    config = parse(launcher.arguments(Path("x"), **VARIANTS["short_text"]))
    assert isinstance(config, Pretrain)
    tokens = load_tokens(config.data, config.model.vocab_size)
    epoch = len(Windows(tokens.train, config.data.seq_len))
    assert epoch == 20
    assert epoch % config.data.batch_size
    assert 3 * epoch < STEPS * config.data.batch_size


@pytest.mark.long
def test_a_run_updated_in_the_backward_pass_moves_to_a_mesh(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the norm by which it is clipped, which no other step would read."""
    flags = STEADY | VARIANTS["in_backward"]
    launcher.finish(launcher.arguments(tmp_path / "alone", **flags))
    run_dir = tmp_path / "moved"
    process = launcher.start(launcher.arguments(run_dir, **flags, save_every=1))
    wait_for(process, lambda: has_rows(run_dir, 8))
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    resume = ["pretrain", "--run-dir", str(run_dir), "--resume"]
    assert main([*resume, "--no-update-in-backward"]) == 2
    assert "--clip-by previous has no effect without --update-in-backward" in capsys.readouterr().err
    launcher.finish([*resume, "--mesh", "fsdp=2"], devices=2)
    expected = losses(tmp_path / "alone")
    assert len(expected) == flags["steps"]
    assert losses(run_dir) == pytest.approx(expected, abs=SAME_LOSS)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_saves_and_exits(number: signal.Signals, adamw: Finished, launcher: Launcher, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    # Checkpoints at each step change no result, and leave time to send a signal.
    process = launcher.start(launcher.arguments(run_dir, **adamw.flags, save_every=1))
    wait_for(process, lambda: has_rows(run_dir, 2))
    os.kill(process.pid, number)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    (step,) = re.findall(rf"{number.name}: saved after step (\d+); to resume: python -m train", output)
    assert rows(run_dir)[-1]["step"] == int(step) < STEPS
    assert (run_dir / "checkpoints" / step).exists()
    assert not (run_dir / "summary.json").exists()
    launcher.finish(["pretrain", "--run-dir", str(run_dir), "--resume"])
    assert_same_run(run_dir, adamw.run_dir)


@pytest.mark.usefixtures("compiled")
def test_a_signal_is_handled_during_an_evaluation(
    adamw: Finished,
    launcher: Launcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir, evaluate = tmp_path / "run", command.evaluate

    def signalled(losses: Any, batches: Any, *others: Any) -> Any:
        def during() -> Any:
            for number, batch in enumerate(batches):
                if number == 1:
                    signal.raise_signal(signal.SIGTERM)
                yield batch

        return evaluate(losses, during(), *others)

    monkeypatch.setattr(command, "evaluate", signalled)
    assert main(launcher.arguments(run_dir, **adamw.flags)) == 0
    assert "SIGTERM: saved after step 0" in capsys.readouterr().out
    assert rows(run_dir) == []
    monkeypatch.undo()
    assert main(["pretrain", "--run-dir", str(run_dir), "--resume"]) == 0
    assert_same_run(run_dir, adamw.run_dir)


@pytest.mark.usefixtures("compiled")
def test_a_second_signal_while_the_run_is_saved_exits_at_once(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, save, exits = tmp_path / "run", Checkpoints.save, set[tuple[int, str]]()

    def signalled(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    def saved(self: Checkpoints, step: int, state: TrainState) -> None:
        signal.raise_signal(signal.SIGTERM)
        save(self, step, state)

    monkeypatch.setattr(signals, "exit_now", lambda *call: exits.add(call))
    monkeypatch.setattr(Trainer, "update", signalled)
    monkeypatch.setattr(Checkpoints, "save", saved)
    with signals.exiting_on_signals():
        assert main(launcher.arguments(run_dir, optimizer="adamw")) == 0
    assert exits == {(signal.SIGTERM, signals.AT_ONCE)}


@pytest.mark.long
def test_a_terminal_that_closes_loses_nothing(launcher: Launcher, tmp_path: Path) -> None:
    """The run redraws its line on the terminal of its session, which sends SIGHUP. Another comes
    from this process, as it may from a shell.
    """
    run_dir = tmp_path / "run"
    ours, theirs = pty.openpty()
    process = launcher.start(
        launcher.arguments(run_dir, optimizer="adamw", steps=2000),
        through=["sh", "-c", 'exec "$@" <>"$0"', os.ttyname(theirs)],  # opens its terminal
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    while not has_rows(run_dir, 2):
        assert os.read(ours, 1 << 16)  # the live line is redrawn all the time
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(200) == 0
    step = rows(run_dir)[-1]["step"]
    assert 2 <= step < 2000
    assert (run_dir / "checkpoints" / str(step)).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_exits_immediately(number: signal.Signals) -> None:
    script = (
        "import signal, time\n"
        "from train.system.signals import StopSignals\n"
        "with StopSignals() as signals:\n"
        f"    signal.raise_signal({int(number)})\n"
        "    print('still here', flush=True)\n"
        f"    signal.raise_signal({int(number)})\n"
        "    print('never here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert done.stdout == "still here\n"


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("what", "flags"),
    [
        ("loss", {"learning_rate": 1e37}),  # the weights are finite, but not their products: 4 are skipped
        ("state", {"learning_rate": 3e38, "weight_decay": 1e3}),
    ],
)
def test_a_run_that_diverges_keeps_its_good_checkpoints(
    what: str,
    flags: dict[str, float],
    launcher: Launcher,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    steady = {"optimizer": "adamw", "warmup": 0, "save_every": 1}
    assert main(launcher.arguments(run_dir, **steady, **flags)) == 3
    ((where, step),) = re.findall(r"the (loss|state) at step (\d+) is not finite", capsys.readouterr().err)
    assert where == what
    kept = [int(path.name) for path in (run_dir / "checkpoints").iterdir()]
    last = int(step) - 1
    assert sorted(kept) == list(range(max(last - 1, 1), last + 1))
    assert all(math.isfinite(row["loss"]) for row in rows(run_dir) if "loss" in row)
    assert rows(run_dir)[-1] == {"step": int(step), "diverged": what}
    skipped = [row["skipped"] for row in rows(run_dir) if "skipped" in row]
    assert skipped == ([1, 2, 3, 4] if what == "loss" else [])


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("clip", [{"clip": 0}, {"clip": 1, "clip_by": "previous"}])
def test_a_gradient_that_is_in_the_weights_before_its_norm_is_known_ends_the_run(
    clip: dict[str, object],
    launcher: Launcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Values of 1e30 that are multiplied by 0 leave the loss as it is, but not the gradient."""
    run_dir, update = tmp_path / "run", Trainer.update
    factors = {"v": 1e30, "o": 0.0}

    def enlarged(path: jax.tree_util.KeyPath, x: jax.Array) -> jax.Array:
        (factor,) = [factors[key.key] for key in path if key.key in factors] or (None,)
        return x if factor is None else jax.device_put(x * factor, x.sharding)

    def spoilt(trainer: Trainer) -> None:
        if trainer.step == 6:
            trainer.state = trainer.state._replace(params=jax.tree.map_with_path(enlarged, trainer.state.params))
        update(trainer)

    monkeypatch.setattr(Trainer, "update", spoilt)
    assert main(launcher.arguments(run_dir, optimizer="adamw", update_in_backward=True, **clip)) == 3
    error = capsys.readouterr().err
    assert (
        "the gradient norm at step 7 is not finite, so the run stops; the last good checkpoint is that of step 5"
        in error
    )
    assert rows(run_dir)[-1] == {"step": 7, "diverged": "gradient norm"}
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["5"]


@pytest.mark.usefixtures("compiled")
def test_a_run_whose_evaluation_is_not_finite_diverges(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predictions of the evaluation at step 6 have one nan."""
    run_dir, predict = tmp_path / "run", Trainer.predict

    def spoilt(trainer: Trainer, rows: Any) -> np.ndarray:
        losses = predict(trainer, rows).copy()
        losses[0, 0] = math.nan if trainer.step else losses[0, 0]
        return losses

    monkeypatch.setattr(Trainer, "predict", spoilt)
    assert main(launcher.arguments(run_dir, optimizer="adamw")) == 3
    error = capsys.readouterr().err
    assert "the evaluation at step 6 is not finite" in error
    assert "the last good checkpoint is that of step 5" in error
    assert rows(run_dir)[-1] == {"step": 6, "diverged": "evaluation"}
    assert [row["step"] for row in rows(run_dir) if "eval_loss" in row] == [0]
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["5"]
    assert not (run_dir / "summary.json").exists()
