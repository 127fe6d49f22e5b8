"""The experiment that measures subspaces: its runs, table and figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.papers import subspaces, trained
from experiments.papers.scales import SCALES
from experiments.papers.subspaces import METHODS, STUDY, Outcome
from train.config.validate import check

RUNS = subspaces.runs_of(SCALES["cpu"])


def measured(step: int) -> dict[str, Any]:
    """A row of two types of two layers."""
    values = {"attn/q/kernel": [0.25, 0.75], "mlp/up/kernel": [0.5 + step / 1000, 0.5]}
    row: dict[str, Any] = {name: values for name in subspaces.COLUMNS if name != "recovered"}
    vectors = {kind: [[value, value / 2] for value in of_kind] for kind, of_kind in values.items()}
    return row | {"step": step, "tangent_norm": values, "tangent_singular_values": vectors}


def outcome(*steps: int) -> Outcome:
    return Outcome([measured(step) for step in steps], 4.0, "abacus", "a text", "abc", "2026-01-01")


def test_pretrain_accepts_every_run_and_measures() -> None:
    for scale in SCALES.values():
        assert tuple(subspaces.runs_of(scale)) == METHODS
        for run in subspaces.runs_of(scale).values():
            check(run.config())
            assert run.config().report.diagnostics


def test_the_table_has_means_over_layers_at_three_steps() -> None:
    outcomes = {RUNS["galore"]: outcome(1, 21, 41, 61), RUNS["grassjump"]: outcome(1)}
    lines = subspaces.report(outcomes).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| g")]
    assert [line[:3] for line in cells] == [
        ["galore", "21", "0.505"],
        ["galore", "41", "0.510"],
        ["galore", "61", "0.515"],
        ["grassjump", "1", "0.500"],
    ]
    assert {line[-1] for line in cells} == {"-"}  # nothing is recovered
    assert "on abacus, processor not recorded, date 2026-01-01, commit abc." in " ".join(lines[:3])
    assert subspaces.report({}) == ""


def test_figures_are_those_of_the_paper(tmp_path: Path) -> None:
    outcomes = {RUNS[name]: outcome(1, 21) for name in ("subtrack", "grassjump")}
    written = {path.name for path in subspaces.draw(outcomes, tmp_path)}
    of_tracking = {f"subspaces-cpu-subtrack-{name}.png" for name in ("energy", "spectrum", "curvature")}
    assert written == of_tracking | {"subspaces-cpu-grassjump-energy.png"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_a_run_leaves_its_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RUNS["grasswalk"]
    monkeypatch.setattr(trained, "RUNS", tmp_path)
    of_run = tmp_path / run.name
    of_run.mkdir()
    (of_run / "diagnostics.jsonl").write_text(json.dumps(measured(1)) + "\n")
    made = trained.Outcome(4.0, 1.0, 2, None, device="abacus", corpus="a text", commit="abc", date="2026-01-01")
    monkeypatch.setattr(trained, "train", lambda _: made)
    found = subspaces.train(run)
    assert found == outcome(1)
    assert json.loads(STUDY.line(run, found))["rows"] == [measured(1)]
