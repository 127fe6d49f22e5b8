"""The figure of tables: every row is seen, with its deviation, in a panel of its own scale."""

import numpy as np

from experiments.figures import Panel, panels_figure, seeds_of

SHORT = Panel("short", "loss (nats)", {"a": [4.0, 4.2], "b": [4.1, 4.1]})
LONG = Panel("long", "loss (nats)", {"b": [2.0], "c": [2.5]})


def names_of(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_a_row_has_its_mean_and_deviation() -> None:
    (axes,) = panels_figure([SHORT]).axes
    assert (axes.get_title(), axes.get_xlabel(), names_of(axes)) == ("short, 2 seeds", "loss (nats)", ["a", "b"])
    bars = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[0][:, 0], 4.1 + np.array([-1, 1]) * 0.02**0.5)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is above


def test_panels_side_by_side_share_their_rows_and_not_their_scale() -> None:
    first, second = panels_figure([SHORT, LONG], columns=2).axes
    assert names_of(first) == ["a", "b", "c"]
    assert second.containers[0].lines[0].get_xydata().tolist() == [[2.0, 1.0], [2.5, 2.0]]
    assert first.get_xlim()[0] > second.get_xlim()[1]


def test_panels_below_each_other_have_rows_of_their_own() -> None:
    drawn = panels_figure([SHORT, LONG, SHORT], columns=2)
    assert [names_of(axes) for axes in drawn.axes] == [["a", "b"], ["b", "c"], ["a", "b"]]


def test_seeds_are_counted() -> None:
    assert [seeds_of(panel) for panel in (SHORT, LONG)] == ["2 seeds", "1 seed"]
    assert seeds_of(Panel("", "", SHORT.values | LONG.values)) == "1 to 2 seeds"
