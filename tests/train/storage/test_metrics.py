"""Metrics survive an interruption of the run, and are summarised and plotted."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from train.config.run import UserError
from train.storage.metrics import Metrics, completed, plot, read_rows

TOKENS = 40


def opened(path: Path, step: int = 0, **more: Any) -> Metrics:
    return Metrics(path, step, tokens=TOKENS, loss_unit="nats per token", **more)


def record(path: Path, step: int = 0) -> Metrics:
    metrics = opened(path, step)
    metrics.add_evaluation(0, {"eval_loss": 8.0, "bits_per_byte": 4.0})
    for step, seconds in ((1, 4.0), (2, 1.0), (3, 1.0)):
        metrics.add_update(step, 9.0 - step, 0.5, seconds)
    metrics.add_evaluation(3, {"eval_loss": 6.0, "bits_per_byte": 3.0})
    return metrics


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_are_written_immediately(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        rows = [json.loads(line) for line in lines(tmp_path / "m")]
    assert rows[0] == {"step": 0, "eval_loss": 8.0, "bits_per_byte": 4.0, "seconds": 0.0, "tokens": 0}
    assert rows[1] == {"step": 1, "loss": 8.0, "lr": 0.5, "tokens_per_second": 10.0, "seconds": 4.0, "tokens": 40}
    assert len(rows) == 5


def test_seconds_and_tokens_are_sums_and_stand_still_at_an_evaluation(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        assert [(row["seconds"], row["tokens"]) for row in metrics.rows] == [
            (0, 0), (4, 40), (5, 80), (6, 120), (6, 120),
        ]  # fmt: skip


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_reopening_drops_later_rows(tmp_path: Path, step: int) -> None:
    with record(tmp_path / "m"):
        before = lines(tmp_path / "m")
    with opened(tmp_path / "m", step) as metrics:
        assert lines(tmp_path / "m") == [row for row in before if json.loads(row)["step"] <= step]
        assert len(metrics.rows) == len(lines(tmp_path / "m"))
        assert metrics.is_evaluated(3) == (step == 3)


def test_the_time_continues_where_the_run_resumes(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        pass
    with opened(tmp_path / "m", 2) as metrics:
        row = metrics.add_update(3, 1.0, 0.5, 0.5)
    assert (row["seconds"], row["tokens"], row["tokens_per_second"]) == (5.5, 120, 80)


def test_rows_of_an_older_version_get_their_seconds_and_tokens(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        rows = metrics.rows
    old = [{name: row[name] for name in row if name not in ("seconds", "tokens")} for row in rows]
    assert list(completed(old, TOKENS)) == rows
    (tmp_path / "old").write_text("".join(json.dumps(row) + "\n" for row in old))
    with opened(tmp_path / "old", 2) as metrics:
        assert metrics.add_update(3, 6.0, 0.5, 1.0) == rows[3]
        assert metrics.rows == rows[:4]


def test_a_watcher_sees_every_row_those_of_the_file_first(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        pass
    seen: list[Any] = []
    with opened(tmp_path / "m", 2, watch=seen.append) as metrics:
        metrics.add_update(3, 6.0, 0.5, 1.0, mfu=0.25)
        assert seen == metrics.rows
    assert [row["step"] for row in seen] == [0, 1, 2, 3]
    assert seen[-1]["mfu"] == 0.25


def test_a_partial_line_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        whole = (tmp_path / "m").read_bytes()
    first_rows = b"".join(whole.splitlines(keepends=True)[:-1])
    for cut in range(len(first_rows) + 1, len(whole) - 1):
        (tmp_path / "m").write_bytes(whole[:cut])
        with opened(tmp_path / "m", 3) as metrics:
            assert (tmp_path / "m").read_bytes() == first_rows
            metrics.add_evaluation(3, {"eval_loss": 6.0, "bits_per_byte": 3.0})
        assert (tmp_path / "m").read_bytes() == whole


def test_a_number_that_json_cannot_hold_is_null(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        metrics.add_evaluation(3, {"eval_loss": 1.0, "bits_per_byte": math.inf})
    row = json.loads(lines(tmp_path / "m")[-1])
    assert (row["eval_loss"], row["bits_per_byte"]) == (1.0, None)


@pytest.mark.parametrize(
    "line", ['{"stfp": 2, "loss": 7.0}', '{"step": "2"}', '{"step": 2.0}', '{"step": true}', "[2]", "2", "null"]
)
def test_a_line_that_is_no_row_ends_the_rows(tmp_path: Path, line: str) -> None:
    with record(tmp_path / "m"):
        whole = lines(tmp_path / "m")
    (tmp_path / "m").write_text("\n".join([*whole[:2], line, *whole[3:]]) + "\n")
    assert [row["step"] for row in read_rows(tmp_path / "m")] == [0, 1]
    with pytest.raises(UserError, match="has no row of update 2, but the run resumes from update 3: restore the file"):
        opened(tmp_path / "m", 3)
    with opened(tmp_path / "m", 1):
        assert lines(tmp_path / "m") == whole[:2]


def test_no_bit_that_flips_makes_rows_that_cannot_be_read(tmp_path: Path) -> None:
    with opened(tmp_path / "m") as metrics:
        metrics.add_evaluation(0, {"eval_loss": 8.0})
        metrics.add_update(1, 7.0, 0.5, 4.0)
        metrics.add_skipped(2, math.nan, 0.5, 2.0, 1)
    whole = (tmp_path / "m").read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "m").write_bytes(flipped)
        rows = list(completed(read_rows(tmp_path / "m"), TOKENS))
        assert all(isinstance(row["step"], int) and row["seconds"] >= 0 for row in rows)


def test_missing_rows_are_refused(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        whole = lines(tmp_path / "m")
    (tmp_path / "m").write_text("\n".join([*whole[:2], *whole[3:]]) + "\n")
    with pytest.raises(UserError, match="has no row of update 2, but the run resumes from update 3: restore the file"):
        opened(tmp_path / "m", 3)
    (tmp_path / "m").unlink()
    with pytest.raises(UserError, match="has no row of update 1"):
        opened(tmp_path / "m", 3)


def test_skipped_updates_are_counted_and_no_losses(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        metrics.add_skipped(4, math.nan, 0.5, 2.0, 1)
        assert [row["step"] for row in metrics.updates] == [1, 2, 3]
        assert [row["step"] for row in metrics.attempts] == [1, 2, 3, 4]
        assert metrics.summary()["skipped_updates"] == 1
        assert metrics.summary()["steps"] == 4
    row = {"step": 4, "skipped": 1, "skipped_loss": None, "lr": 0.5, "seconds": 8.0, "tokens": 160}
    with opened(tmp_path / "m", 4) as metrics:
        assert metrics.attempts[-1] == row


def test_the_end_of_a_run_that_diverged_is_dropped_when_it_resumes(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        metrics.add_diverged(3, "evaluation")
    assert json.loads(lines(tmp_path / "m")[-1]) == {"step": 3, "diverged": "evaluation"}
    with opened(tmp_path / "m", 3) as metrics:
        assert len(metrics.rows) == 5


def test_the_summary_counts_all_tokens_over_all_seconds(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        summary = metrics.summary()
    assert summary["tokens_per_second"] == pytest.approx(3 * TOKENS / 6)
    assert (summary["seconds"], summary["tokens"]) == (6.0, 120)
    assert (summary["first_train_loss"], summary["last_train_loss"]) == (8.0, 6.0)
    assert (summary["steps"], summary["eval_loss"], summary["bits_per_byte"]) == (3, 6.0, 3.0)


def test_the_loss_curve_is_a_picture(tmp_path: Path) -> None:
    with record(tmp_path / "m") as metrics:
        plot(metrics, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
