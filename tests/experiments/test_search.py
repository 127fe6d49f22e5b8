"""The search for rates ends where every neighbour is worse, wherever it is resumed."""

import math

from hypothesis import given
from hypothesis import strategies as st

from experiments.search import Point, best, trials

AT = st.tuples(st.integers(-5, 5), st.integers(-5, 5))


def valley(bottom: Point, known: dict[Point, float] | None = None):
    """A loss with its least value at a point; only of known points, if they are given."""

    def loss(point: Point) -> float | None:
        if known is not None and point not in known:
            return None
        return float(sum(abs(a - b) for a, b in zip(point, bottom, strict=True)))

    return loss


@given(AT)
def test_it_finds_the_bottom_of_a_valley(bottom: Point) -> None:
    assert best(valley(bottom), axes=2) == bottom
    assert len(trials(valley(bottom), axes=2)) <= 5 + 3 * sum(map(abs, bottom))


@given(AT, st.integers(0, 40))
def test_what_was_made_before_a_stop_does_not_change_it(bottom: Point, count: int) -> None:
    whole = trials(valley(bottom), axes=2)
    known = dict.fromkeys(whole[:count], 0.0)
    so_far = trials(valley(bottom, known), axes=2)
    assert so_far == whole[: len(so_far)]
    assert len(so_far) > count or so_far == whole
    assert best(valley(bottom, known), axes=2) == (bottom if count >= len(whole) else None)


def test_the_start_is_kept_when_nothing_is_better_and_a_diverged_trial_is_worse() -> None:
    assert trials(lambda point: None, axes=1) == [(0,), (-1,), (1,)]
    assert best({(0,): 4.0, (-1,): 4.0, (1,): math.inf}.get, axes=1) == (0,)
    assert best({(0,): math.nan, (-1,): 5.0, (-2,): 6.0, (1,): math.nan}.get, axes=1) == (-1,)
    assert best({(0,): math.inf, (-1,): 5.0, (-2,): 6.0, (1,): math.inf}.get, axes=1) == (-1,)
