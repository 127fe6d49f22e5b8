"""Each command of benchmarks/ runs, on small matrices and for few rounds. No time is asserted."""

import importlib.util
import json
import math
import subprocess
import sys

import jax
import pytest

from benchmarks import (
    children,
    compile_time,
    contestants,
    kernels,
    measure,
    passes,
    peak,
    plan_check,
    plans,
    roofline,
    shapes,
    step,
    torch_peers,
    train_step,
    weights,
)
from train.config.optimizers import OPTIMIZERS

SMALL = ["--size", "tiny", "--layers", "1"]


def written(tmp_path, command, *arguments):
    """The tables of a command, read from its JSON."""
    path = tmp_path / "results" / "found.json"
    returned = command.main([*arguments, "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["tables"] == json.loads(json.dumps(returned))
    assert {"date", "device", "processor", "cpus", "versions", "load"} <= set(found["machine"])
    assert found["machine"]["versions"]["jax"] == jax.__version__
    assert found["arguments"]["methods"]
    return found["tables"]


@pytest.fixture(autouse=True)
def own_promotion():
    """Peers and plain products mix types and ranks; the strict settings are for the library."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.long
def test_step_times_refreshes_apart_and_names_what_is_missing(tmp_path, capsys):
    methods = ["adamw", "apollo", "optax-galore", "rollfast-apollo"]
    arguments = [*SMALL, "--steps", "9", "--gap", "2", "--methods", *methods]
    tables = written(tmp_path, step, *arguments, "--layouts", "stacked")
    assert [(table["layout"], table["mode"]) for table in tables] == [("stacked", "donated"), ("stacked", "undonated")]
    for table in tables:
        assert table["missing"]["optax-galore"]
        assert table["missing"]["rollfast-apollo"]
        adamw, apollo = table["rows"]
        assert adamw["ratio_of_medians"] == 1
        assert adamw["mean_over_base"] == 1
        assert {adamw["ratio"][name] for name in ("min", "q1", "median", "q3", "max")} == {1.0}
        assert adamw["refresh_seconds"] is None
        assert apollo["refresh_seconds"]["count"] == 3  # at 4, 6 and 8: the first is kept apart
        assert apollo["regular_seconds"]["count"] == 3  # 3, 5, 7
        assert apollo["first_refresh_seconds"] > 0
        assert min(apollo["ratio"]["min"], apollo["refresh_over_base"], apollo["mean_over_base"]) > 0
    assert "over adamw" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is a peer, and need not be there")
def test_a_peer_of_torch_steps_or_is_named_as_missing():
    problem = shapes.make_problem("tiny", stacked=True, gap=2, layers=1)
    names = list(torch_peers.TORCH_CONTESTANTS)
    found, missing = torch_peers.torch_contestants(names, problem)
    assert {peer.name for peer in found} | set(missing) == set(names)
    seconds = measure.take_turns(found, 3)
    assert all(len(s) == 3 for s in seconds.values())


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    problem = shapes.make_problem("tiny", stacked=False, gap=2, layers=1)
    found, missing = torch_peers.torch_contestants(["torch-adamw", "galore-torch"], problem)
    assert found == []
    assert set(missing) == {"torch-adamw", "galore-torch"}
    with pytest.raises(contestants.CannotRun, match="not installed"):
        contestants.JAX_CONTESTANTS["rollfast-galore"](problem)


def test_peak_counts_the_state_in_gradients(tmp_path):
    (table,) = written(tmp_path, peak, *SMALL, "--methods", "adamw", "optax-galore")
    adamw, galore = table["rows"]
    assert adamw["state"] == pytest.approx(2, rel=1e-4)
    assert adamw["state_over_adam"] == 1
    assert adamw["compiled"]["alias"] >= 3 * adamw["gradient_bytes"]  # weights and moments stay where they are
    assert galore["missing"]


def test_compile_time_counts_instructions(tmp_path):
    (table,) = written(
        tmp_path, compile_time, "--size", "tiny", "--leaves", "2", "--methods", "adamw", "apollo", "--repeats", "1"
    )
    adamw, apollo = table["rows"]
    assert adamw["ratio"] == 1
    assert apollo["instructions"] > adamw["instructions"] > 0
    assert (adamw["conditionals"], adamw["leaves"]) == (0, 2)


def test_instructions_are_counted():
    program = (
        "HloModule m\n\nENTRY %main {\n  %a.1 = f32[] parameter(0)\n  ROOT %c = f32[] conditional(%a.1), x={}\n}\n"
    )
    assert compile_time.size_of(program) == {"instructions": 2, "bytes": len(program), "conditionals": 1}


@pytest.mark.long
def test_roofline_puts_each_step_beside_its_floor(tmp_path):
    arguments = [*SMALL, "--steps", "4", "--warmup", "1", "--copy-megabytes", "1", "--product-width", "64"]
    (table,) = written(tmp_path, roofline, *arguments, "--methods", "adamw", "apollo")
    assert [ceiling["name"] for ceiling in table["ceilings"]] == ["copy", "square product", "products of these shapes"]
    for row in table["rows"]:
        assert row["floor_max_seconds"] <= row["floor_sum_seconds"]
        assert row["step_over_floor_sum"] * row["floor_sum_seconds"] == pytest.approx(row["seconds"]["median"])


def test_kernels_reads_times_and_bytes_of_every_operation(tmp_path, capsys):
    (adamw,) = written(tmp_path, kernels, *SMALL, "--methods", "adamw")
    largest = max(adamw["rows"], key=lambda row: row["read"])
    assert all(row["seconds"] > 0 for row in adamw["rows"])
    matrix = max(map(math.prod, shapes.make_problem("tiny", stacked=True, gap=1, layers=1).shapes.values()))
    assert largest["read"] >= 3 * 4 * matrix  # the gradient and both moments, or more
    assert largest["source"].startswith("jit(step)")
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.long
def test_passes_counts_what_a_step_reads_and_writes(tmp_path, capsys):
    (table,) = written(tmp_path, passes, *SMALL, "--methods", "adamw", "galore-randomized", "--details")
    adamw, galore = table["rows"]
    assert adamw["written"] == pytest.approx(3, rel=0.01)  # both moments and the weights
    assert adamw["read"] >= 4
    assert adamw["temporaries"] < 0.05 < galore["temporaries"]
    assert sum(kernel["written"] for kernel in adamw["largest"]) == pytest.approx(3, rel=0.01)
    assert "jit(step)" in capsys.readouterr().out


def test_least_traffic_and_arithmetic_by_hand():
    """Two matrices, 2 x 3 and 4 x 2, at rank 1: mn is 6 and 8, mr 2 and 2, rn 3 and 4."""
    matrices = [(2, 3), (4, 2)]
    assert roofline.least_bytes(roofline.COSTS["adamw"], matrices, 1) == 4 * 7 * 14
    assert roofline.least_bytes(roofline.COSTS["grassjump"], matrices, 1) == 4 * (6 * 14 + 4 + 4 * 7)
    assert roofline.least_bytes(roofline.COSTS["apollo"], matrices, 1) == 4 * (4 * 14 + 2 * 4 + 4 * 7)
    assert roofline.least_operations(roofline.COSTS["grassjump"], matrices, 1) == 4 * 14
    assert roofline.least_operations(roofline.COSTS["adamw"], matrices, 1) == 0


@pytest.mark.long
def test_train_step_is_compared_with_its_base(tmp_path):
    arguments = ["--batch", "1", "--sequence", "8", "--methods", "adamw", "column_sgd"]
    (table,) = written(tmp_path, train_step, *arguments, "--steps", "4", "--warmup", "1")
    assert table["rows"][0]["ratio_of_medians"] == 1
    assert table["rows"][1]["ratio"]["count"] == 3


@pytest.mark.parametrize("switches", [[], ["--update-in-backward"]], ids=["plain", "backward"])
def test_train_step_plans_its_memory(tmp_path, switches):
    arguments = ["--batch", "1", "--sequence", "8", "--methods", "column_sgd", "--peak", *switches]
    (table,) = written(tmp_path, train_step, *arguments)
    assert table["rows"][0]["planned_ratio"] == 1
    assert table["rows"][0]["planned_bytes"] > 0


@pytest.mark.long
def test_communication_counts_what_is_sent_by_hand(tmp_path):
    """AdamW sends nothing; a split leaf sends less than its gradient, and on one device nothing."""
    path = tmp_path / "found.json"
    arguments = ["--size", "tiny", "--layers", "2", "--devices", "1", "8", "--methods", "adamw", "grassjump"]
    command = [sys.executable, "-m", "benchmarks.communication", *arguments, "--layouts", "fsdp", "--json", str(path)]
    done = subprocess.run(command, cwd=children.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(path.read_text())["tables"]
    sent = {(row["name"], row["devices"]): sum(row["every_step"].values()) for row in table["rows"]}
    assert (sent["adamw", 1], sent["adamw", 8], sent["grassjump", 1]) == (0, 0, 0)
    assert sent["grassjump", 8] > 0
    # By hand: m is sharded for q, k, v, gate, up and down, which sum r x n and the column norms of
    # G, and gather the direction and the factors of the columns; n is sharded for o, which needs
    # nothing but its norm.
    rank, columns = 32, 2 * (3 * 128 + 3 * 352)
    ring = 4 * columns * (2 * (rank + 1) + (rank + 1)) * 7 / 8
    assert sent["grassjump", 8] == pytest.approx(ring, rel=0.01)


@pytest.mark.long
def test_weak_scaling_sends_what_is_counted_by_hand(tmp_path):
    """What a method sends beyond AdamW is what the test above counts by hand, on two devices."""
    path = tmp_path / "found.json"
    arguments = ["--model", "tiny", "--batch", "1", "--sequence", "8", "--devices", "2", "--json", str(path)]
    command = [sys.executable, "-m", "benchmarks.weak_scaling", *arguments, "--methods", "adamw", "grassjump"]
    done = subprocess.run(command, cwd=children.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(path.read_text())["tables"]
    rows = {(row["name"], row["devices"]): row for row in table["rows"]}
    assert (rows["adamw", 2]["over_adamw"], rows["adamw", 2]["refresh"]) == (0, 0)
    assert rows["adamw", 2]["every_step"] > 0
    rank, columns = 32, 4 * (4 * 128 + 3 * 352)  # o is sharded where its basis is, too
    assert rows["grassjump", 2]["over_adamw"] == pytest.approx(4 * columns * 3 * (rank + 1) / 2, rel=0.01)
    assert rows["grassjump", 2]["refresh"] > 0


@pytest.mark.long
def test_plans_shows_what_does_not_fit(tmp_path, capsys):
    small = ["--models", "tiny", "--meshes", "fsdp=2", "--sequence", "8", "--dtype", "float32"]
    (table,) = written(tmp_path, plans, *small, "--methods", "adamw")
    (found,) = table["rows"]
    assert (found["flags"]["remat"], found["devices"]) == ("block", 2)
    shown = capsys.readouterr().out
    assert f"| tiny | fsdp=2 | 2 | adamw | {found['bytes']['parameters'] / 1e9:.3f} |" in shown
    does_not_fit = plans.row("tiny", "fsdp=2", "adamw", found | {"compiled": None, "sent": None})
    assert does_not_fit[-6:-1] == ["-"] * 5


@pytest.mark.skipif(not plan_check.CLEAR.exists(), reason="only Linux tells a process's memory there")
@pytest.mark.long
def test_plan_check_measures_more_than_half_of_what_is_held(tmp_path):
    (table,) = written(tmp_path, plan_check, "--model", "tiny", "--sequence", "8", "--methods", "adamw")
    (row,) = table["rows"]
    assert row["planned"] > row["held"] > 0
    # Below what is held a step cannot be; how far above, is what the command is for.
    assert row["measured"] > 0.5 * row["held"]


def test_every_method_of_the_library_is_a_contestant():
    """All but the baselines, which are Optax's, under the names that the trainer gives them."""
    names = {name for name, row in OPTIMIZERS.items() if row.package in ("grass_optax", "optax")}
    assert names <= set(contestants.JAX_CONTESTANTS)
    problem = shapes.make_problem("tiny", stacked=True, gap=2, layers=1)
    for name in (name for name, row in OPTIMIZERS.items() if not row.is_baseline):
        jax.eval_shape(contestants.JAX_CONTESTANTS[name](problem).init, problem.abstract)


@pytest.mark.parametrize("stacked", [True, False])
def test_shapes_are_those_of_the_model(stacked):
    problem = shapes.make_problem("60m", stacked=stacked, gap=1)
    assert len(problem.shapes) == (7 if stacked else 56)
    assert sorted(problem.matrices) == 8 * 4 * [(512, 512)] + 8 * 2 * [(512, 1376)] + 8 * [(1376, 512)]
    assert problem.gradient_bytes == 4 * sum(math.prod(shape) for shape in problem.matrices)
    assert problem.rank == 128


def test_times_are_sorted_out():
    times = measure.sort_out([9.0, 8.0, 7.0, 1.0, 5.0, 3.0, 4.0], gap=2, warmup=2)
    assert times == measure.Times(first=9.0, first_refresh=7.0, regular={3: 1.0, 5: 3.0}, refresh={4: 5.0, 6: 4.0})
    base = measure.sort_out([9.0, 8.0, 7.0, 2.0, 2.0, 2.0, 2.0], gap=None, warmup=2)
    assert sorted(measure.ratios(times, base)) == [0.5, 1.5]
    row = measure.compare(times, base, own_gap=10)
    assert (row["refresh_over_base"], row["ratio_of_medians"]) == (2.25, 1.0)
    assert row["mean_over_base"] == pytest.approx(1 + (4.5 - 2) / 10 / 2)
    assert (row["longest_step"], row["longest_over_median"]) == (4, 2.5)


@pytest.mark.long
def test_an_import_and_an_export_hold_the_weights_once(tmp_path):
    """And some 0.1 GB for what is written; Orbax's defaults would take 2.9 times the weights."""
    (table,) = written(tmp_path, weights, "--megabytes", "400", "--folder", str(tmp_path))
    assert [row["name"] for row in table["rows"]] == ["import", "export"]
    assert all(row["file"] > 400e6 for row in table["rows"])
    assert all(row["ratio"] < 1.5 for row in table["rows"])
    assert not list(tmp_path.glob("tmp*"))


def test_weights_are_random_and_of_the_size_that_is_asked_for(tmp_path):
    config = weights.network(150)
    assert 150e6 < 4 * weights.count_parameters(config) < 250e6
