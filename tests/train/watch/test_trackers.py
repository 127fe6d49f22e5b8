"""Trackers get every step once, whatever happens to the run, and nothing that happens to them ends
it.
"""

import ast
import signal
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.train.small_run import STEPS, Launcher
from train.__main__ import main
from train.config import bounds
from train.config.run import TrackerName
from train.storage.metrics import Metrics
from train.watch import trackers
from train.watch.services import Session, TensorBoard
from train.watch.trackers import Trackers, named

Logged = list[tuple[int, dict[str, float]]]


class Kept:
    """A service that keeps in memory what it gets, across the processes of a run."""

    def __init__(self, fails_at: int = -1) -> None:
        self.logged: Logged = []
        self.fails_at, self.closed = fails_at, 0

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("no\nroute to the host")
        self.logged.append((step, dict(numbers)))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[TrackerName, Kept]:
    """Services in memory instead of the real ones."""
    kept: dict[TrackerName, Kept] = {"wandb": Kept(), "trackio": Kept()}
    started = {name: lambda _, service=service: service for name, service in kept.items()}
    monkeypatch.setattr(trackers, "SERVICES", started)
    return kept


def process(folder: Path, names: Sequence[TrackerName], start: int, stop: int, end: bool = False) -> list[str]:
    """A process of a run that resumes at `start` and is killed after `stop`, or ends; evaluations
    are at even steps.
    """
    warnings: list[str] = []
    tracked = Trackers(names, folder, {}, warnings.append)
    with Metrics(folder / "m", start, tokens=10, loss_unit="", watch=tracked.add) as metrics:
        for step in range(start, stop + 1):
            if step > start:
                metrics.add_update(step, 9.0 - step, 0.5, 1.0)
            if step % 2 == 0 and not metrics.is_evaluated(step) and (step < stop or end):
                metrics.add_evaluation(step, {"eval_loss": 10.0 - step, "bits_per_byte": 1.0})
    if end:
        tracked.flush()
    return warnings


def steps_of(service: Kept) -> list[int]:
    return [step for step, _ in service.logged]


def test_the_numbers_of_a_step_come_at_once(tmp_path: Path, services: dict[TrackerName, Kept]) -> None:
    process(tmp_path, ["wandb"], 0, 2, end=True)
    assert services["wandb"].logged == [
        (0, {"eval/loss": 10.0, "eval/bits_per_byte": 1.0}),
        (1, {"train/loss": 8.0, "train/lr": 0.5, "train/tokens_per_second": 10.0, "train/seconds": 1.0,
             "train/tokens": 10}),
        (2, {"train/loss": 7.0, "train/lr": 0.5, "train/tokens_per_second": 10.0, "train/seconds": 2.0,
             "train/tokens": 20, "eval/loss": 8.0, "eval/bits_per_byte": 1.0}),
    ]  # fmt: skip


def test_a_skipped_update_is_no_evaluation_and_nan_is_left_out() -> None:
    row = {"step": 4, "skipped": 1, "skipped_loss": float("nan"), "lr": 0.5}
    assert named(row) == named(row | {"skipped_loss": None}) == {"train/skipped": 1, "train/lr": 0.5}


def test_no_step_is_logged_twice_however_often_the_run_is_killed(
    tmp_path: Path, services: dict[TrackerName, Kept]
) -> None:
    process(tmp_path, ["wandb"], 0, 6)
    process(tmp_path, ["wandb"], 4, 5)  # a kill before the first has been caught up with
    process(tmp_path, ["wandb"], 4, 9)
    process(tmp_path, ["wandb"], 8, 10, end=True)
    process(tmp_path, ["wandb"], 10, 10, end=True)  # only the results were missing
    assert steps_of(services["wandb"]) == list(range(11))
    assert [step for step, numbers in services["wandb"].logged if "eval/loss" in numbers] == [0, 2, 4, 6, 8, 10]


def test_a_tracker_that_is_added_later_gets_the_steps_before(tmp_path: Path, services: dict[TrackerName, Kept]) -> None:
    process(tmp_path, ["wandb"], 0, 6)
    process(tmp_path, ["trackio"], 4, 8)
    process(tmp_path, ["wandb", "trackio"], 8, 10, end=True)
    assert steps_of(services["wandb"]) == steps_of(services["trackio"]) == list(range(11))


def test_a_tracker_that_fails_is_one_warning_and_catches_up_later(
    tmp_path: Path, services: dict[TrackerName, Kept]
) -> None:
    services["wandb"].fails_at = 3
    warnings = process(tmp_path, ["wandb", "trackio"], 0, 6)
    assert warnings == ["warning: --log wandb failed and is switched off, but the run continues: no route to the host"]
    assert steps_of(services["trackio"]) == list(range(6))
    services["wandb"].fails_at = -1
    process(tmp_path, ["wandb", "trackio"], 6, 7, end=True)
    assert steps_of(services["wandb"]) == [0, 1, 2, 4, 5, 6, 7]  # the failed step may have arrived
    assert steps_of(services["trackio"]) == list(range(8))


def test_a_tracker_that_cannot_start_or_close_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Kept):
        def close(self) -> None:
            raise TimeoutError

    def refused(_: Session) -> Kept:
        raise PermissionError("no API key")

    monkeypatch.setattr(trackers, "SERVICES", {"wandb": refused, "trackio": lambda _: Broken()})
    warnings: list[str] = []
    with Trackers(["wandb", "trackio"], tmp_path, {}, warnings.append):
        pass
    assert [warning.partition("continues: ")[2] for warning in warnings] == ["no API key", "TimeoutError"]


def test_the_identity_of_a_run_stays_and_differs_from_that_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    monkeypatch.setattr(trackers, "SERVICES", {"wandb": lambda session: sessions.append(session) or Kept()})
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        Trackers(["wandb"], folder, {"data": {"seed": 3}}, pytest.fail)
    first, again, other = (session.identity for session in sessions)
    assert first == again != other
    assert sessions[0].settings == {"data": {"seed": 3}}


def test_the_names_of_numbers_say_where_they_are_from() -> None:
    assert named({"step": 3, "loss": 2.0, "mfu": 0.5}) == {"train/loss": 2.0, "train/mfu": 0.5}
    assert named({"step": 3, "eval_loss": 2.0, "f1": 0.5, "seconds": 1.0, "tokens": 9}) == {
        "eval/loss": 2.0,
        "eval/f1": 0.5,
    }


# TensorBoard, with its package


def events(folder: Path) -> list[Event]:
    """The events of all files of a folder: each is its length, a checksum, itself and another."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return [event for event in found if event.HasField("summary")]


def values(event: Event) -> dict[str, float]:
    return {value.tag: value.simple_value for value in event.summary.value}


def test_event_files_hold_what_was_logged(tmp_path: Path) -> None:
    for start in (0, 2):  # two processes
        service = TensorBoard(Session(tmp_path, f"{start}", {}))
        service.log(start, {"eval/loss": 2.5, "train/lr": 0.5})
        service.log(start + 1, {"train/lr": 0.25})
        service.close()
    assert [event.step for event in events(tmp_path)] == [0, 1, 2, 3]
    assert [values(event) for event in events(tmp_path)][:2] == [
        {"eval/loss": 2.5, "train/lr": 0.5},
        {"train/lr": 0.25},
    ]


@pytest.mark.long
@pytest.mark.usefixtures("compiled")
def test_a_run_that_is_stopped_and_resumed_is_in_tensorboard_once(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, log = tmp_path / "run", TensorBoard.log

    def signalled(self: TensorBoard, step: int, numbers: Mapping[str, float]) -> None:
        log(self, step, numbers)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TensorBoard, "log", signalled)
    assert (
        main(
            [
                *launcher.arguments(run_dir, optimizer="adamw", learning_rate=0.02, sample_tokens=0),
                "--log",
                "tensorboard",
            ]
        )
        == 0
    )
    assert "SIGTERM: saved after step" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["pretrain", "--run-dir", str(run_dir), "--resume"]) == 0
    found = events(run_dir)
    assert Counter(event.step for event in found) == Counter(range(STEPS + 1))
    rows = {event.step: values(event) for event in found}
    assert [step for step in rows if "eval/loss" in rows[step]] == [0, 6, STEPS]
    assert all("train/loss" in rows[step] for step in range(1, STEPS + 1))
    summary = capsys.readouterr().out
    assert f"{rows[STEPS]['eval/loss']:.4f}" in summary


# Packages that are missing


@pytest.mark.parametrize("command", [["pretrain"], ["compare", "--optimizers", "adamw"]])
def test_a_missing_package_is_one_sentence_before_anything_is_written(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bounds.TRACKERS, "trackio", "a_package_that_is_missing")
    words = ["--run-dir", str(tmp_path / "run"), "--log", "tensorboard", "trackio"]
    assert main([*command, *words]) == 2
    assert capsys.readouterr().err == (
        "error: --log trackio needs a package that is missing: pip install a_package_that_is_missing, or leave trackio "
        "out.\n"
    )
    assert not (tmp_path / "run").exists()


def test_packages_of_trackers_are_imported_only_when_they_are_used() -> None:
    loaded = ast.parse(Path(trackers.__file__).with_name("services.py").read_text()).body  # with the module
    names = {alias.name for node in loaded if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in loaded if isinstance(node, ast.ImportFrom)}
    assert "train.config.run" in names
    assert not {name.split(".")[0] for name in names} & set(bounds.TRACKERS.values())
