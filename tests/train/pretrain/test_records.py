"""What a run writes survives being cut off: metrics, checkpoints, files, and the folder itself."""

import json
import math
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.config.run import UserError
from train.pretrain.checkpoint import Checkpoints
from train.pretrain.evaluation import Evaluation
from train.pretrain.metrics import Metrics, plot
from train.system.files import locked, write_whole

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "count": jnp.asarray(3), "b": (jnp.ones(2),)}
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


def record(path: Path, step: int = 0) -> Metrics:
    metrics = Metrics(path, step)
    metrics.add_evaluation(0, Evaluation(8.0, 4.0))
    for step, speed in ((1, 10.0), (2, 40.0), (3, 40.0)):
        metrics.add_update(step, 9.0 - step, 0.5, speed)
    metrics.add_evaluation(3, Evaluation(6.0, 3.0))
    return metrics


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_arrive_at_once(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        rows = [json.loads(line) for line in lines(tmp_path / "m")]
    assert rows[0] == {"step": 0, "eval_loss": 8.0, "bits_per_byte": 4.0}
    assert rows[1] == {"step": 1, "loss": 8.0, "lr": 0.5, "tokens_per_second": 10.0}
    assert len(rows) == 5


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_reopening_forgets_what_came_later(tmp_path: Path, step: int) -> None:
    with record(tmp_path / "m"):
        before = lines(tmp_path / "m")
    with Metrics(tmp_path / "m", step) as metrics:
        assert lines(tmp_path / "m") == [row for row in before if json.loads(row)["step"] <= step]
        assert len(metrics.rows) == len(lines(tmp_path / "m"))
        assert metrics.is_evaluated(3) == (step == 3)


def test_a_torn_line_is_forgotten_wherever_it_was_cut(tmp_path: Path) -> None:
    with record(tmp_path / "m"):
        whole = (tmp_path / "m").read_bytes()
    first_rows = b"".join(whole.splitlines(keepends=True)[:-1])
    for cut in range(len(first_rows) + 1, len(whole) - 1):
        (tmp_path / "m").write_bytes(whole[:cut])
        with Metrics(tmp_path / "m", 3) as metrics:
            assert (tmp_path / "m").read_bytes() == first_rows
            metrics.add_evaluation(3, Evaluation(6.0, 3.0))
        assert (tmp_path / "m").read_bytes() == whole


def test_no_row_holds_what_json_cannot(tmp_path: Path) -> None:
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


def test_a_file_is_whole_or_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "x", "old")

    def fail(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("train.system.files.os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "x", "new and longer")
    assert (tmp_path / "x").read_text() == "old"


def test_a_lock_refuses_or_waits(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with locked(tmp_path):
            order.append("second")

    waiting = threading.Thread(target=wait)
    with locked(tmp_path):
        with pytest.raises(UserError, match="taken"), locked(tmp_path, "taken"):
            order.append("refused")
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_the_last_two_checkpoints_are_kept_and_come_back_exactly(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
        for step in (1, 2, 30):
            checkpoints.save(step, jax.tree.map(lambda x, step=step: x * step, STATE))
        assert checkpoints.latest == 30
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "30"]
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(30, ABSTRACT)
    assert jax.tree.structure(restored) == jax.tree.structure(STATE)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(STATE), strict=True):
        np.testing.assert_array_equal(new, old * 30)
        assert new.dtype == old.dtype


def test_remains_of_a_kill_are_no_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, STATE)
        checkpoints.save(2, STATE)
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")  # killed while writing 3
    for path in (folder / "1").rglob("*"):  # killed while removing 1
        if path.is_file():
            path.unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 2
        checkpoints.restore(2, ABSTRACT)
        checkpoints.save(3, STATE)
        assert checkpoints.latest == 3
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
