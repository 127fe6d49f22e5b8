"""Curves as inline SVG, whose colours and fonts are those of the page around it.

matplotlib would write each curve twice, once for each colour scheme, and text that shrinks with the
picture. Its ticks are used.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 230  # of the drawing, in units of a font of 12
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44  # margins, for the numbers and names of the axes
MOST_POINTS = 240  # of a curve: what a phone has pixels for
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
FEW = 30  # points of a line that are marked, each


class Curve(NamedTuple):
    """Numbers over others, as a line or as points, in a colour."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    is_line: bool = True
    colour: str = "c0"  # of the page


class Point(NamedTuple):
    """Some neighbouring points of a curve as one: their means, least and most."""

    x: float
    y: float
    least: float
    most: float


class Scale(NamedTuple):
    """The map from numbers to places on an axis, and its ticks."""

    low: float
    high: float
    start: float
    stop: float
    ticks: Sequence[float]

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start), 1)


def chart(title: str, x_name: str, y_name: str, curves: Sequence[Curve], *, is_whole: bool = False) -> str:
    """Return a figure of some curves, at least one of which has a point.

    Args:
      title: What is shown.
      x_name: Name and unit of the horizontal axis.
      y_name: Name and unit of the vertical axis.
      curves: The curves, at most two.
      is_whole: Mark whole numbers only on the horizontal axis.
    """
    x = scale([x for curve in curves for x in curve.xs], LEFT, WIDTH - RIGHT, is_whole=is_whole)
    y = scale([y for curve in curves for y in curve.ys], HEIGHT - BOTTOM, TOP)
    parts = [*_axes(x, y, x_name)]
    for curve in curves:
        parts += _drawn(curve, x, y)
    names = "".join(f'<span class="key {curve.colour}">{escape(curve.name)}</span>' for curve in curves)
    return (
        f"<figure><figcaption><b>{escape(title)}</b> {escape(y_name)}{names if len(curves) > 1 else ''}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over {escape(x_name)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def scale(values: Sequence[float], start: float, stop: float, *, is_whole: bool = False) -> Scale:
    """Return the scale of an axis that holds all values."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # constants, such as a learning rate
        pad = abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    elif not is_whole:
        low, high = low - (high - low) / 20, high + (high - low) / 20
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=is_whole).tick_values(low, high)
    shown = [float(tick) for tick in ticks if low <= tick <= high]
    return Scale(low, high, start, stop, shown)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return the ticks of an axis in few characters, all in one unit."""
    largest = max(map(abs, ticks), default=0)
    size, letter = next(((size, x) for size, x in UNITS if largest >= 10 * size), (1.0, ""))
    return [f"{tick / size:,g}{letter if tick else ''}" for tick in ticks]


def thinned(xs: Sequence[float], ys: Sequence[float]) -> Iterator[Point]:
    """Yield the points of a curve, neighbours together if they are many."""
    size = -(-len(xs) // MOST_POINTS)
    for i in range(0, len(xs), size):
        some, others = xs[i : i + size], ys[i : i + size]
        yield Point(sum(some) / len(some), sum(others) / len(others), min(others), max(others))


def _axes(x: Scale, y: Scale, x_name: str) -> Iterator[str]:
    for tick, label in zip(y.ticks, tick_labels(y.ticks), strict=True):
        yield f'<path class="grid" d="M{LEFT} {y(tick)}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{label}</text>'
    for tick, label in zip(x.ticks, tick_labels(x.ticks), strict=True):
        yield f'<path class="axis" d="M{x(tick)} {HEIGHT - BOTTOM}v4"/>'
        yield f'<text x="{x(tick)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{label}</text>'
    yield f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'


def _drawn(curve: Curve, x: Scale, y: Scale) -> Iterator[str]:
    points, colour = list(thinned(curve.xs, curve.ys)), curve.colour
    if curve.is_line and any(point.least < point.most for point in points):
        upper = [f"{x(p.x)} {y(p.most)}" for p in points]
        lower = [f"{x(p.x)} {y(p.least)}" for p in reversed(points)]
        yield f'<path class="band {colour}" d="M{"L".join(upper + lower)}Z"/>'
    if curve.is_line and len(points) > 1:
        yield f'<path class="line {colour}" d="M{"L".join(f"{x(p.x)} {y(p.y)}" for p in points)}"/>'
    if not curve.is_line or len(points) < FEW:
        for point in points:
            yield f'<circle class="dot {colour}" cx="{x(point.x)}" cy="{y(point.y)}" r="3.5"/>'
