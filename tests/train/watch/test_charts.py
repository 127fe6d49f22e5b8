"""Curves as SVG: every number is at its place, and many points are few."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from train.watch.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    WIDTH,
    Curve,
    chart,
    scale,
    thinned,
    tick_labels,
)


def points(figure: str) -> list[tuple[float, float]]:
    """The corners of the first line of a figure."""
    (path,) = re.findall(r'<path class="line \w+" d="M([^"]*)"', figure)
    return [(float(x), float(y)) for x, y in (corner.split() for corner in path.split("L"))]


def test_a_line_goes_from_edge_to_edge_and_up_for_larger_numbers() -> None:
    figure = chart("Loss", "steps", "nats", [Curve("training", [0, 5, 10], [3.0, 1.0, 2.0])], is_whole=True)
    (x0, y0), (x1, y1), (x2, y2) = points(figure)
    assert (x0, x1, x2) == (LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT)
    assert y0 < y2 < y1 < HEIGHT - BOTTOM
    assert y2 - y0 == pytest.approx(y1 - y2, abs=0.11)


def test_a_figure_is_well_formed_and_its_texts_are_escaped() -> None:
    hostile = "</figure><script>\"&'"
    figure = chart(hostile, hostile, hostile, [Curve(hostile, [0, 1], [0, 1]), Curve("b", [0], [1], False, "c1")])
    assert "<script" not in figure
    assert ElementTree.fromstring(figure).tag == "figure"


@pytest.mark.parametrize("count", [1, 2, MOST_POINTS, MOST_POINTS + 1, 100_003])
def test_a_curve_of_many_points_keeps_its_mean_and_its_extremes(count: int) -> None:
    ys = [float((7 * i) % 11) for i in range(count)]
    kept = list(thinned(range(count), ys))
    assert len(kept) <= MOST_POINTS
    assert min(point.least for point in kept) == min(ys)
    assert max(point.most for point in kept) == max(ys)
    assert [point.x for point in kept] == sorted(point.x for point in kept)
    if count <= MOST_POINTS:
        assert [point.y for point in kept] == ys


def test_one_point_and_equal_numbers_can_be_drawn() -> None:
    for curve in (Curve("a", [3], [2.0]), Curve("a", [0, 1], [0.5, 0.5]), Curve("a", [0, 1], [0.0, 0.0])):
        figure = chart("Rate", "steps", "", [curve], is_whole=True)
        assert "nan" not in figure
        assert "circle" in figure


def test_ticks_are_inside_the_axis_and_whole_if_they_must_be() -> None:
    for high in (1, 2, 7, 300, 123_456):
        ticks = scale([0, high], 0, 100, is_whole=True).ticks
        assert all(tick.is_integer() and 0 <= tick <= high for tick in ticks)
        assert len(ticks) > 1


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 5000.0, 10000.0], ["0", "5k", "10k"]),
        ([0.0, 5000.0], ["0", "5,000"]),
        ([0.001, 0.002], ["0.001", "0.002"]),
        ([4e10, 8e10], ["40G", "80G"]),
        ([], []),
    ],
)
def test_the_numbers_of_an_axis_have_one_unit(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels
