"""The table, the record and the plot of a comparison, from runs whose numbers are known."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from train.__main__ import parse
from train.compare.choice import best_of_each, results
from train.compare.command import remove_checkpoints
from train.compare.config import Compare
from train.compare.grid import cells
from train.compare.record import Record, mark_diverged, speed_quartiles
from train.compare.report import curve_of, edges, points, summary_line, write_report
from train.system.devices import device_summary

RECORD = Record({"schedule": {"steps": 30}}, "a text")


def comparison(folder: Path, words: str) -> Compare:
    config = parse(["compare", "--run-dir", str(folder), *words.split()])
    assert isinstance(config, Compare)
    return config


def leave_run(folder: Path, name: str, eval_loss: float, **more: Any) -> None:
    """What a finished run leaves, as far as a comparison reads it."""
    run = folder / name
    run.mkdir()
    summary = {"eval_loss": eval_loss, "bits_per_byte": eval_loss / 2, "optimizer_bytes": 12345, "device": "abacus"}
    (run / "summary.json").write_text(json.dumps(summary | more))
    rows: list[dict[str, float]] = [{"step": 0, "eval_loss": 9.0, "bits_per_byte": 4.5}]
    speeds = [1.0] * 5 + [100.0, 300.0, 4000.0]
    rows += [
        {"step": t, "loss": 8.0, "lr": 0.1, "tokens_per_second": v, "seconds": 15.0 * t}
        for t, v in enumerate(speeds, 1)
    ]
    rows.append({"step": 8, "eval_loss": eval_loss, "bits_per_byte": eval_loss / 2})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def leave_diverged(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "log.txt").write_text("step 1\nerror: the loss at step 2 is not finite\n\n")
    mark_diverged(folder / name)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table_of(text: str) -> list[list[str]]:
    return [cells_of(line) for line in text.splitlines() if line.startswith("|")]


@pytest.fixture
def swept(tmp_path: Path) -> Compare:
    """Two rates of three optimizers: one best at the upper edge, one diverged once, one always."""
    for name, loss in (
        ("adamw-lr0.001-scale1-seed0", 5.0),
        ("adamw-lr0.01-scale1-seed0", 4.5),
        ("muon-lr0.001-scale1-seed0", 4.25),
    ):
        leave_run(tmp_path, name, loss, **({"peak_memory_bytes": 7654321} if "muon" in name else {}))
    for name in ("muon-lr0.01-scale1-seed0", "grassjump-lr0.001-scale0.25-seed0", "grassjump-lr0.01-scale0.25-seed0"):
        leave_diverged(tmp_path, name)
    return comparison(tmp_path, "--optimizers adamw muon grassjump --sweep learning_rate=1e-3,1e-2")


def test_the_table_has_the_best_run_of_each_optimizer_the_best_first(swept: Compare) -> None:
    text = write_report(swept, RECORD)
    assert (swept.run_dir / "compare.md").read_text() == text
    head, _, *rows = table_of(text.partition("## All runs")[0])
    assert head == ["optimizer", "lr", "scale", "eval loss", "bits per byte", "minutes", "tokens/s", "optimizer bytes",
                    "peak memory bytes"]  # fmt: skip
    assert rows == [
        ["muon", "0.001", "1", "4.2500", "2.1250", "2.0", "300 (200 to 2,150)", "12,345", "7,654,321"],
        ["adamw", "0.01", "1", "4.5000", "2.2500", "2.0", "300 (200 to 2,150)", "12,345", "-"],
        ["grassjump", "0.001", "0.25", "diverged", "-", "-", "-", "-", "-"],
    ]
    assert "on abacus; the best of learning rates 0.001, 0.01, chosen by the eval loss shown, so on the same " in text
    assert "are missing" not in text


def test_the_table_of_all_runs_hides_nothing(swept: Compare) -> None:
    _, _, *rows = table_of(write_report(swept, RECORD).partition("## All runs")[2])
    assert [row[:4] for row in rows] == [
        ["muon", "0.001", "1", "4.2500"],
        ["adamw", "0.01", "1", "4.5000"],
        ["adamw", "0.001", "1", "5.0000"],
        ["muon", "0.01", "1", "diverged"],
        ["grassjump", "0.001", "0.25", "diverged"],
        ["grassjump", "0.01", "0.25", "diverged"],
    ]


def test_a_best_run_at_an_edge_is_noted(swept: Compare) -> None:
    text = write_report(swept, RECORD)
    assert "* adamw: 0.01 is the upper edge of --sweep learning_rate; the optimum may be beyond it." in text
    assert "* muon: 0.001 is the lower edge of --sweep learning_rate; the optimum may be beyond it." in text
    assert "grassjump:" not in text


def test_inside_the_sweep_and_without_one_there_is_no_edge(tmp_path: Path) -> None:
    config = comparison(tmp_path, "--optimizers adamw badam --sweep learning_rate=1,2,3 --sweep scale=0.5,1,2")
    for cell in cells(config):
        leave_run(tmp_path, cell.folder, 2.0 + abs(cell.learning_rate - 2))
    assert [note[:21] for note in edges(config, results(config))] == ["adamw: 0.5 is the low"]

    def rewritten(learning_rate: float, scale: float) -> list[str]:
        name = f"adamw-lr{learning_rate:g}-scale{scale:g}-seed0"
        content = (tmp_path / name / "summary.json").read_text()
        (tmp_path / name / "summary.json").write_text(json.dumps(json.loads(content) | {"eval_loss": 1.0}))
        notes = edges(config, results(config))
        (tmp_path / name / "summary.json").write_text(content)
        return notes

    assert rewritten(2, 1) == []
    assert [note[:20] for note in rewritten(2, 2)] == ["adamw: 2 is the uppe"]
    assert len(rewritten(3, 0.5)) == 2
    (tmp_path / "adamw-lr1-scale1-seed0" / "summary.json").unlink()  # a run is missing
    assert rewritten(3, 0.5) == []
    config = comparison(tmp_path, "--optimizers adamw --sweep learning_rate=3")
    assert edges(config, results(config)) == []


def test_the_record_has_every_run_and_the_settings(swept: Compare) -> None:
    write_report(swept, RECORD)
    content = json.loads((swept.run_dir / "compare.json").read_text())
    assert content["settings"] == {"schedule": {"steps": 30}}
    assert content["data_fingerprint"] == "a text"
    assert [run["folder"] for run in content["best"]] == [
        "muon-lr0.001-scale1-seed0", "adamw-lr0.01-scale1-seed0", "grassjump-lr0.001-scale0.25-seed0",
    ]  # fmt: skip
    assert len(content["runs"]) == 6
    assert content["runs"][1] == {
        "optimizer": "adamw", "settings": {}, "learning_rate": 0.01, "scale": 1.0, "seed": 0,
        "folder": "adamw-lr0.01-scale1-seed0", "diverged": False,
        "eval_loss": 4.5, "bits_per_byte": 2.25, "tokens_per_second": 300.0,
        "tokens_per_second_quartiles": [200.0, 2150.0], "optimizer_bytes": 12345, "seconds": 120.0,
        "peak_memory_bytes": None, "device": "abacus",
    }  # fmt: skip
    assert len(content["notes"]) == 2


def test_the_plot_has_the_curve_of_the_best_run_of_each_optimizer(swept: Compare) -> None:
    done = results(swept)
    curves = [curve_of(swept, best.runs[0]) for best in best_of_each(swept, done) if not best.diverged]
    assert [tuple(curve) for curve in curves] == [
        ("muon", "lr 0.001, scale 1", [0, 8], [9.0, 4.25]),
        ("adamw", "lr 0.01, scale 1", [0, 8], [9.0, 4.5]),
    ]
    assert sorted(map(tuple, points(swept, done)), key=str) == [
        ("adamw", 0.001, 5.0), ("adamw", 0.01, 4.5), ("grassjump", 0.001, None), ("grassjump", 0.01, None),
        ("muon", 0.001, 4.25), ("muon", 0.01, None),
    ]  # fmt: skip
    write_report(swept, RECORD)
    assert (swept.run_dir / "compare.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_there_is_no_plot_before_a_run_has_finished(tmp_path: Path) -> None:
    config = comparison(tmp_path, "--optimizers adamw muon")
    leave_diverged(tmp_path, "muon-lr0.003-scale1-seed0")
    write_report(config, RECORD)
    assert not (tmp_path / "compare.png").exists()
    leave_run(tmp_path, "adamw-lr0.003-scale1-seed0", 5.0)
    write_report(config, RECORD)
    assert (tmp_path / "compare.png").exists()


@pytest.fixture
def seeded(tmp_path: Path) -> Compare:
    """A sweep with seed 0, and the best of each with seeds 1 and 2."""
    for name, losses in {"adamw-lr0.01": (4.0, 4.5, 4.1), "muon-lr0.001": (4.2, 4.0, 4.4)}.items():
        for seed, loss in enumerate(losses):
            leave_run(tmp_path, f"{name}-scale1-seed{seed}", loss)
    leave_run(tmp_path, "adamw-lr0.001-scale1-seed0", 5.0)
    leave_diverged(tmp_path, "muon-lr0.01-scale1-seed0")
    return comparison(tmp_path, "--optimizers adamw muon --sweep learning_rate=1e-3,1e-2 --seeds 0 1 2")


def test_the_table_has_the_seeds_that_did_not_choose(seeded: Compare) -> None:
    text = write_report(seeded, RECORD)
    _, _, *rows = table_of(text.partition("## ")[0])
    assert [row[:6] for row in rows] == [
        ["muon", "0.001", "1", "1 2", "4.2000 ± 0.2828", "2.1000 ± 0.1414"],
        ["adamw", "0.01", "1", "1 2", "4.3000 ± 0.2828", "2.1500 ± 0.1414"],
    ]
    assert "seed 1 2, rank" in text
    assert "0.01, chosen by the eval loss of seed 0, on the same held-out text." in text
    _, _, *rows = table_of(text.partition("## Eval loss less that of adamw, by seed")[2].partition("##")[0])
    assert rows == [
        ["muon", "-0.5000", "+0.3000", "-0.1000 ± 0.5657"],
        ["adamw", "+0.0000", "+0.0000", "+0.0000 ± 0.0000"],
    ]
    assert text.count("±: the standard deviation over the seeds.") == 1
    assert len(table_of(text.partition("## All runs")[2])) == 2 + 8
    content = json.loads((seeded.run_dir / "compare.json").read_text())
    assert content["seeds"]["muon"]["seeds"] == [1, 2]
    assert content["seeds"]["muon"]["mean"] == pytest.approx({"eval_loss": 4.2, "bits_per_byte": 2.1})
    assert content["seeds"]["muon"]["deviation"]["eval_loss"] == pytest.approx(0.08**0.5)
    assert content["seeds"]["muon"]["differences"] == pytest.approx({"1": -0.5, "2": 0.3})


def test_without_a_sweep_all_seeds_are_shown_and_their_checkpoints_kept(seeded: Compare) -> None:
    config = comparison(seeded.run_dir, "--optimizers muon adamw --sweep learning_rate=1e-2 --seeds 0 1 2")
    text = write_report(config, RECORD)
    _, _, *rows = table_of(text.partition("## ")[0])
    assert [row[:5] for row in rows] == [
        ["adamw", "0.01", "1", "0 1 2", "4.2000 ± 0.2646"],
        ["muon", "0.01", "1", "0", "diverged"],
    ]
    assert "; at learning rates 0.01." in text
    assert "are missing" not in text  # what has diverged is not repeated
    for run in seeded.run_dir.iterdir():
        if run.is_dir():
            (run / "checkpoints").mkdir()
    remove_checkpoints(seeded)
    removed = {run.name for run in seeded.run_dir.iterdir() if run.is_dir() and not (run / "checkpoints").exists()}
    assert removed == {f"{name}-lr{lr}-scale1-seed0" for name in ("adamw", "muon") for lr in ("0.001", "0.01")}


def test_seeds_of_their_own_choose_and_all_others_are_reported(seeded: Compare) -> None:
    """By the mean over two seeds 0.001 is the better rate of adamw, although seed 0 says 0.01."""
    leave_run(seeded.run_dir, "adamw-lr0.001-scale1-seed2", 3.0)
    leave_run(seeded.run_dir, "adamw-lr0.001-scale1-seed1", 4.8)
    config = comparison(
        seeded.run_dir, "--optimizers adamw --sweep learning_rate=1e-3,1e-2 --seeds 1 --tuning-seeds 0 2"
    )
    text = write_report(config, RECORD)
    _, _, *rows = table_of(text.partition("## ")[0])
    assert [row[:5] for row in rows] == [["adamw", "0.001", "1", "1", "4.8000"]]
    assert "chosen by the eval loss of seeds 0 2, on the same held-out text." in text
    assert "are missing" not in text
    _, _, *every = table_of(text.partition("## All runs")[2])
    assert sorted((row[1], row[3]) for row in every) == [
        ("0.001", "0"), ("0.001", "1"), ("0.001", "2"), ("0.01", "0"), ("0.01", "1"), ("0.01", "2")
    ]  # fmt: skip


def test_a_seed_that_diverged_is_counted(seeded: Compare) -> None:
    shutil.rmtree(seeded.run_dir / "muon-lr0.001-scale1-seed1")
    leave_diverged(seeded.run_dir, "muon-lr0.001-scale1-seed1")
    shutil.rmtree(seeded.run_dir / "adamw-lr0.01-scale1-seed2")
    text = write_report(seeded, RECORD)
    _, _, *rows = table_of(text.partition("## ")[0])
    assert [row[:6] for row in rows] == [
        ["adamw", "0.01", "1", "1", "4.5000", "2.2500"],
        ["muon", "0.001", "1", "1 2", "1 of 2 diverged", "-"],
    ]
    assert "**1 of 8 runs are missing.**" in text
    _, _, *rows = table_of(text.partition("by seed")[2].partition("##")[0])
    assert rows[1] == ["muon", "-", "-", "-"]


def test_an_unfinished_comparison_reports_how_many_runs_are_missing(tmp_path: Path) -> None:
    config = comparison(tmp_path, "--optimizers adamw muon")
    text = write_report(config, RECORD)
    assert "**2 of 2 runs are missing.**" in text
    assert len(table_of(text)) == 2
    leave_run(tmp_path, "adamw-lr0.003-scale1-seed0", 5.0)
    (tmp_path / "muon-lr0.003-scale1-seed0").mkdir()  # begun
    text = write_report(config, RECORD)
    assert "**1 of 2 runs are missing.**" in text
    assert [row[0] for row in table_of(text)] == ["optimizer", "---", "adamw"]
    assert "## All runs" not in text
    assert "the defaults of each optimizer" in summary_line(config, {})


def test_only_the_best_runs_keep_their_weights(swept: Compare) -> None:
    for run in swept.run_dir.iterdir():
        (run / "checkpoints" / "8").mkdir(parents=True)
    (swept.run_dir / "galore-lr1-scale1-seed0" / "checkpoints").mkdir(parents=True)  # not of this command
    remove_checkpoints(swept)
    kept = {path.parent.name for path in swept.run_dir.glob("*/checkpoints")}
    best = {"muon-lr0.001-scale1-seed0", "adamw-lr0.01-scale1-seed0", "grassjump-lr0.001-scale0.25-seed0"}
    assert kept == best | {"galore-lr1-scale1-seed0"}


def test_the_first_updates_do_not_count_for_the_speed() -> None:
    rows = [{"tokens_per_second": float(v)} for v in (1, 1, 1, 1, 1, 30, 10, 20)]
    assert speed_quartiles([{"eval_loss": 3.0}, *rows]) == (15, 20, 25)
    assert speed_quartiles(rows[:3]) == (1, 1, 1)  # a run too short to wait for
    assert speed_quartiles(rows[5:6]) == (30, 30, 30)


def test_the_last_message_of_a_diverged_run_is_stored(swept: Compare) -> None:
    kept = swept.run_dir / "muon-lr0.01-scale1-seed0" / "diverged.txt"
    assert kept.read_text() == "error: the loss at step 2 is not finite\n"


@pytest.mark.parametrize(
    ("statistics", "summary"),
    [
        ({"peak_bytes_in_use": 5, "bytes_in_use": 3}, {"device": "abacus", "peak_memory_bytes": 5}),
        ({"bytes_in_use": 3}, {"device": "abacus"}),
        (None, {"device": "abacus"}),
    ],
)
def test_peak_memory_is_what_the_backend_reports(
    statistics: dict[str, int] | None, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimpleNamespace(device_kind="abacus", memory_stats=lambda: statistics)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert device_summary() == summary
