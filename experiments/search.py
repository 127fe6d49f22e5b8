"""Settings that are better than their neighbours: learning rates, and what is chosen with them.

    trials(loss, axes=2)     # the points to try, as far as is known
    best(loss, axes=2)       # None until all of them were tried

A point is a number of steps on each axis, up or down from where the search starts. `loss` gives the
loss of a point, infinite or NaN if it diverged; None if it was not tried.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Point = tuple[int, ...]
# What a setting is multiplied by after some steps: learning rates by factors of 2, scales by 1, 3,
# 10, 30 and so on.
FACTORS: dict[str, Callable[[int], float]] = {
    "learning_rate": lambda steps: 2.0**steps,
    "scale": lambda steps: float(f"{10 ** (steps / 2):.1g}"),
}
Loss = TypeVar("Loss", float, tuple[float, float])


def trials(loss: Callable[[Point], Loss | None], axes: int) -> list[Point]:
    """The start and its neighbours, then those of the best of them, until none is better."""
    centre: Point = (0,) * axes
    points: dict[Point, None] = {}
    while True:
        nearby = [centre, *_neighbours(centre)]
        points |= dict.fromkeys(nearby)
        lowest = _lowest(loss, nearby)  # the centre, of equal ones
        if lowest is None or lowest == centre:
            return list(points)
        centre = lowest


def best(loss: Callable[[Point], Loss | None], axes: int) -> Point | None:
    """The point where the search ends; None if it has not."""
    return _lowest(loss, trials(loss, axes))


def _neighbours(centre: Point) -> list[Point]:
    return [(*centre[:axis], at + step, *centre[axis + 1 :]) for axis, at in enumerate(centre) for step in (-1, 1)]


def _lowest(loss: Callable[[Point], Loss | None], points: list[Point]) -> Point | None:
    """The point of the least loss; None if some were not tried."""
    losses = {point: known for point in points if (known := loss(point)) is not None}
    if len(losses) < len(points):
        return None
    return min(points, key=lambda point: (bool(np.any(np.isnan(losses[point]))), losses[point]))
