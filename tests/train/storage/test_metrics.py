"""Metrics survive an interruption of the run, and are summarised and plotted."""

import json
import math
from pathlib import Path

import pytest

from train.storage.metrics import Metrics, plot


def record(path: Path, step: int = 0) -> Metrics:
    metrics = Metrics(path, step)
    metrics.add_evaluation(0, {"eval_loss": 8.0, "bits_per_byte": 4.0})
    for step, speed in ((1, 10.0), (2, 40.0), (3, 40.0)):
        metrics.add_update(step, 9.0 - step, 0.5, speed)
    metrics.add_evaluation(3, {"eval_loss": 6.0, "bits_per_byte": 3.0})
    return metrics


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_are_written_immediately(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        rows = [json.loads(line) for line in lines(tmp_path / "m")]
    assert rows[0] == {"step": 0, "eval_loss": 8.0, "bits_per_byte": 4.0}
    assert rows[1] == {"step": 1, "loss": 8.0, "lr": 0.5, "tokens_per_second": 10.0}
    assert len(rows) == 5


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_reopening_drops_later_rows(tmp_path: Path, step: int) -> None:
    with record(tmp_path / "m"):
        before = lines(tmp_path / "m")
    with Metrics(tmp_path / "m", step) as metrics:
        assert lines(tmp_path / "m") == [row for row in before if json.loads(row)["step"] <= step]
        assert len(metrics.rows) == len(lines(tmp_path / "m"))
        assert metrics.is_evaluated(3) == (step == 3)


def test_a_partial_line_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        whole = (tmp_path / "m").read_bytes()
    first_rows = b"".join(whole.splitlines(keepends=True)[:-1])
    for cut in range(len(first_rows) + 1, len(whole) - 1):
        (tmp_path / "m").write_bytes(whole[:cut])
        with Metrics(tmp_path / "m", 3) as metrics:
            assert (tmp_path / "m").read_bytes() == first_rows
            metrics.add_evaluation(3, {"eval_loss": 6.0, "bits_per_byte": 3.0})
        assert (tmp_path / "m").read_bytes() == whole


def test_a_row_that_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics, pytest.raises(ValueError, match="JSON"):
        metrics.add_update(4, math.nan, 0.5, 1.0)


def test_the_summary_counts_all_tokens_over_all_seconds(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        summary = metrics.summary()
    # 3 updates of 40 tokens took 4, 1 and 1 seconds.
    assert summary["tokens_per_second"] == pytest.approx(3 * 40 / 6)
    assert (summary["first_train_loss"], summary["last_train_loss"]) == (8.0, 6.0)
    assert (summary["steps"], summary["eval_loss"], summary["bits_per_byte"]) == (3, 6.0, 3.0)


def test_the_loss_curve_is_a_picture(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        plot(metrics, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
