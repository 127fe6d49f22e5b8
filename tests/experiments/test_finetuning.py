"""The tables and the figure of fine-tuning: seeds side by side."""

import pytest

from experiments import finetuning, finetuning_runs
from tests.experiments.test_finetuning_runs import OUTCOME, SMALL, outcomes_of


def test_runs_are_compared_seed_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(finetuning_runs.TABLES, "cpu", (SMALL,))
    runs = [run for run in finetuning_runs.runs_of(SMALL, {}) if run.optimizer == "adamw" or run.rank == 4]
    runs = [run for run in runs if run.optimizer in ("adamw", "galore") and run.seed < 2]
    text = finetuning.report(outcomes_of(runs, (0.5, 0.6, 0.7, 0.4)))
    rows = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert "| 2 | 0.600 ± 0.141 | 0.100 ± 0.000 | - | 2 | 1 | 1.0 |" in rows["| adamw"]
    assert "| 4 | 3e-05 | 2 | 0.500 ± 0.141 | 0.100 ± 0.000 | +0.100, -0.300 |" in rows["| galore"]
    assert "| 0.000 | 0.200 |" in rows["| the same guess"]


def test_the_figure_has_a_panel_for_each_table_that_has_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(finetuning_runs.TABLES, "cpu", (SMALL,))
    runs = [run for run in finetuning_runs.runs_of(SMALL, {}) if run.optimizer in ("adamw", "galore")]
    drawn = finetuning.figure(dict.fromkeys(runs, OUTCOME))
    assert drawn is not None
    (axes,) = drawn.axes
    assert axes.get_title() == "Two words, 3 seeds"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["adamw", "galore, r = 4", "galore, r = 8"]
    assert finetuning.figure({}) is None
