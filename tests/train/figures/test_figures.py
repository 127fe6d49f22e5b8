"""Every number of the rows is in the figure that is to show it."""

import numpy as np
import pytest

from tests.train.figures.measured import KINDS, LAYERS, STEPS, measured
from train.figures.losses import Losses, loss_figure
from train.figures.subspaces import curvature_figure, energy_figure, short_names, spectrum_figure, subspaces_figure

ROWS = [measured(step) for step in STEPS]


def lines(axes: object) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in axes.get_lines()]  # type: ignore[attr-defined]


def test_the_energy_of_every_layer_is_in_the_panel_of_its_type() -> None:
    axes = energy_figure(ROWS, "run").axes
    assert [panel.get_title() for panel in axes[: len(KINDS)]] == list(short_names(KINDS))
    for kind, panel in zip(KINDS, axes, strict=False):
        *of_layers, best, random = lines(panel)
        assert len(of_layers) == LAYERS
        for layer, line in enumerate(of_layers):
            expected = [[row["step"], row["captured"][kind][layer]] for row in ROWS]
            np.testing.assert_allclose(line, expected)
        assert best[0, 1] == pytest.approx(0.85)
        assert random[:, 1] == pytest.approx(0.5)


def test_spectra_and_norms_are_the_largest_over_layers() -> None:
    panel = spectrum_figure(ROWS, "run").axes[0]
    first, last = lines(panel)[0], lines(panel)[-1]
    for line, row in ((first, ROWS[0]), (last, ROWS[-1])):
        np.testing.assert_allclose(line[:, 1], row["tangent_singular_values"][KINDS[0]][0])
    norms, relative, *_ = curvature_figure(ROWS, "run").axes
    np.testing.assert_allclose(lines(norms)[3][:, 1], [row["tangent_norm"][KINDS[3]][0] for row in ROWS])
    assert lines(relative)[3][0, 1] == pytest.approx(0.45)


def test_a_run_without_a_limit_has_the_panels_that_it_can_have() -> None:
    without = [{name: x for name, x in row.items() if name not in ("recovered", "limited")} for row in ROWS]
    figures = [subspaces_figure(rows, "run") for rows in (ROWS, without)]
    assert [len(figure.axes) for figure in figures if figure] == [5, 3]
    assert figures[0] is not None
    assert lines(figures[0].axes[4])[0][0, 1] == pytest.approx(0.5)


def test_the_angles_of_every_type_are_there_from_the_second_measurement_on() -> None:
    figure = subspaces_figure(ROWS, "run")
    assert figure is not None
    for panel, quantity in zip(figure.axes[1:3], ("angle_mean", "angle_largest"), strict=True):
        for kind, line in zip(KINDS, lines(panel), strict=True):
            np.testing.assert_allclose(line, [[row["step"], row[quantity][kind][0]] for row in ROWS[1:]])


def test_a_run_measured_before_there_were_angles_has_no_panels_of_them() -> None:
    without = [{name: x for name, x in row.items() if not name.startswith("angle")} for row in ROWS]
    figure = subspaces_figure(without, "run")
    assert figure is not None
    assert len(figure.axes) == 3


def test_a_run_with_one_measurement_has_the_panels_that_it_can_have() -> None:
    first = ROWS[:1]
    assert first[0]["step"] == 1
    for draw in (energy_figure, spectrum_figure, curvature_figure):
        assert draw(first, "run").axes
    figure = subspaces_figure(first, "run")
    assert figure is not None
    assert len(figure.axes) == 2  # nothing has overlapped yet
    bare = [{name: x for name, x in first[0].items() if name not in ("recovered", "limited")}]
    assert subspaces_figure(bare, "run") is None


def test_types_lose_what_all_of_them_have() -> None:
    assert short_names(KINDS)[:2] == ["attn/k", "attn/o"]
    assert short_names(["w"]) == ["w"]


def test_losses_are_drawn_over_each_cost() -> None:
    updates = [{"step": t, "tokens": 10 * t, "seconds": t / 2, "loss": 9.0 - t} for t in range(1, 4)]
    held_out = [{"step": 3, "tokens": 30, "seconds": 1.5, "eval_loss": 6.5}]
    figure = loss_figure([Losses("a", "with adamw", updates, held_out), Losses("b", "", updates, [])], "nats")
    for panel, cost in zip(figure.axes, ("step", "tokens", "seconds"), strict=True):
        training, evaluation, other, nothing = lines(panel)
        np.testing.assert_allclose(training, [[row[cost], row["loss"]] for row in updates])
        np.testing.assert_allclose(evaluation, [[held_out[0][cost], 6.5]])
        np.testing.assert_allclose(other, training)
        assert nothing.size == 0
