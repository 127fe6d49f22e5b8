"""Metrics survive an interruption of the run, and are summarised and plotted."""

import json
import math
from pathlib import Path

import pytest

from train.config.run import UserError
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


def test_a_number_that_json_cannot_hold_is_null(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        metrics.add_evaluation(3, {"eval_loss": 1.0, "bits_per_byte": math.inf})
    assert json.loads(lines(tmp_path / "m")[-1]) == {"step": 3, "eval_loss": 1.0, "bits_per_byte": None}


def test_missing_rows_are_refused(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        whole = lines(tmp_path / "m")
    (tmp_path / "m").write_text("\n".join([*whole[:2], *whole[3:]]) + "\n")
    with pytest.raises(UserError, match="has no row of update 2, but the run resumes from update 3: restore the file"):
        Metrics(tmp_path / "m", 3)
    (tmp_path / "m").unlink()
    with pytest.raises(UserError, match="has no row of update 1"):
        Metrics(tmp_path / "m", 3)


def test_skipped_updates_are_counted_and_no_losses(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        metrics.add_skipped(4, 0.5, math.nan, 1)
        assert [row["step"] for row in metrics.updates] == [1, 2, 3]
        assert [row["step"] for row in metrics.attempts] == [1, 2, 3, 4]
        assert metrics.summary()["skipped_updates"] == 1
        assert metrics.summary()["steps"] == 4
    with Metrics(tmp_path / "m", 4) as metrics:
        assert metrics.attempts[-1] == {"step": 4, "skipped": 1, "skipped_loss": None, "lr": 0.5}


def test_the_end_of_a_run_that_diverged_is_dropped_when_it_resumes(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        metrics.add_diverged(3, "evaluation")
    assert json.loads(lines(tmp_path / "m")[-1]) == {"step": 3, "diverged": "evaluation"}
    with Metrics(tmp_path / "m", 3) as metrics:
        assert len(metrics.rows) == 5


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
