"""Numbers have names, units and a form that people read."""

import pytest

from train.__main__ import parse
from train.config.finetune import ExampleFlags, Finetune, TaskName
from train.config.stored import Run
from train.storage.quantities import aligned, loss_unit, number, unit_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6268144, "6,268,144"),
        (0, "0"),
        (19183.25, "19,183"),
        (85.5433, "85.5433"),
        (123.456, "123.5"),
        (0.00125, "0.00125"),
        (1e-5, "1e-05"),
        ("xla", "xla"),
    ],
)
def test_whole_numbers_are_whole_and_others_are_short(value: float | str, text: str) -> None:
    assert number(value) == text


def test_a_summary_is_aligned_and_has_units() -> None:
    numbers = {"eval_loss": 4.25, "optimizer_bytes": 6268144, "parameters": 12, "device": "cpu", "best_eval_loss": 4.0}
    assert aligned(numbers, "nats per token") == [
        "      eval_loss     4.2500  nats per token",
        "optimizer_bytes  6,268,144  bytes",
        "     parameters         12",
        "         device        cpu",
        " best_eval_loss     4.0000  nats per token",
    ]


@pytest.mark.parametrize(
    ("task", "unit"),
    [("language", "nats per token"), ("classification", "nats per text"), ("regression", "squared error")],
)
def test_the_unit_of_a_loss_is_that_of_the_task(task: TaskName, unit: str, tmp_path: object) -> None:
    runs: list[Run] = [Finetune(run_dir=tmp_path, data=ExampleFlags(task=task))]  # type: ignore[arg-type]
    if task == "language":
        pretrain = parse(["pretrain", "--run-dir", "x"])
        runs.append(pretrain)  # type: ignore[arg-type]
    assert {loss_unit(run) for run in runs} == {unit}
    assert unit_of("last_train_loss", unit) == unit
