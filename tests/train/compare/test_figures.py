"""The plot of a comparison: every contestant is seen and told from the others."""

import itertools

from matplotlib.figure import Figure

from train.compare.figures import COLOURS, MARKERS, Curve, Trial, comparison_figure, style

NAMES = [f"method{number}" for number in range(18)]  # as many as there are to compare


def figure(names: list[str], trials: list[Trial] | None = None, steps: int = 8) -> Figure:
    """All curves lie on each other."""
    curves = [Curve(name, "lr 1", [0, steps], [9.0, 4.0]) for name in names]
    return comparison_figure(curves, trials or [], "held-out loss (nats per token)")


def test_contestants_differ_in_more_than_colour() -> None:
    lines = figure(NAMES).axes[0].get_lines()
    assert [str(line.get_label()) for line in lines] == [f"{name}, lr 1" for name in NAMES]
    assert len({(line.get_marker(), line.get_color()) for line in lines}) == len(NAMES)
    assert len({line.get_marker() for line in lines[: len(MARKERS)]}) == len(MARKERS)
    assert len({line.get_color() for line in lines[: len(COLOURS)]}) == len(COLOURS)
    styles = [style(number, len(NAMES)) for number in range(len(NAMES))]
    assert all(one["linestyle"] != other["linestyle"] for one, other in itertools.pairwise(styles))


def test_a_curve_under_another_is_wider_and_markers_are_hollow() -> None:
    lines = figure(NAMES).axes[0].get_lines()
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[-1] > 0
    assert {line.get_markerfacecolor() for line in lines} == {"none"}


def test_neighbouring_colours_differ_in_lightness_or_hue_for_the_colour_blind() -> None:
    """The first are those of Okabe and Ito, without the yellow that is hard to see on white."""
    assert len(set(COLOURS)) == len(COLOURS) == 12
    assert "#F0E442" not in COLOURS


def test_steps_are_whole_numbers_however_few() -> None:
    for steps in (1, 2, 3, 300, 40_000):
        axes = figure(NAMES[:2], steps=steps).axes[0]
        ticks = axes.get_xticks()
        assert all(float(tick).is_integer() for tick in ticks)
        labels = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
        assert len(set(labels)) == len(labels)


def test_a_sweep_has_a_panel_with_the_best_loss_at_each_rate() -> None:
    trials = [Trial("method0", 0.1, 5.0), Trial("method0", 0.1, 4.0), Trial("method0", 1.0, None)]
    trials += [Trial("method1", 0.1, None), Trial("method1", 1.0, 3.0), Trial("method2", 1.0, None)]
    _, rates = figure(NAMES[:2], trials).axes
    assert rates.get_xscale() == "log"
    assert rates.get_xlabel() == "learning rate, each with its best scale"
    by_marker: dict[str, list[list[list[float]]]] = {}
    for line in rates.get_lines():
        by_marker.setdefault(str(line.get_marker()), []).append(line.get_xydata().tolist())
    assert by_marker[MARKERS[0]] == [[[0.1, 4.0]]]
    assert by_marker[MARKERS[1]] == [[[1.0, 3.0]]]
    assert [rate for ((rate, _),) in by_marker["x"]] == [1.0, 0.1, 1.0]
    assert rates.get_title(loc="right") == "x: diverged"


def test_without_a_sweep_there_is_one_panel() -> None:
    assert len(figure(NAMES[:2], [Trial("method0", 0.1, 5.0), Trial("method1", 1.0, 5.0)]).axes) == 1
