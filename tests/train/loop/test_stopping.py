"""Early stopping, by hand."""

import pytest

from train.loop.stopping import EarlyStop


def rows(metric: str, *values: float) -> list[dict[str, float]]:
    return [{"step": 10 * i, metric: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "patience", "is_over", "best"),
    [
        ((0.5,), 1, False, 0),
        ((0.5, 0.4), 1, True, 0),
        ((0.5, 0.4), 2, False, 0),
        ((0.5, 0.6, 0.6), 1, True, 1),
        ((0.5, 0.4, 0.3, 0.51), 2, False, 3),
        ((0.5, 0.7, 0.4, 0.7, 0.6), 3, True, 1),
    ],
)
def test_it_is_over_when_the_best_is_too_long_ago(
    values: tuple[float, ...], patience: int, is_over: bool, best: int
) -> None:
    stop = EarlyStop(metric="accuracy", patience=patience)
    assert stop.is_over(rows("accuracy", *values)) == is_over
    assert stop.best(rows("accuracy", *values))["step"] == 10 * best


def test_a_loss_is_better_when_lower() -> None:
    stop = EarlyStop(metric="eval_loss", patience=1)
    assert stop.best(rows("eval_loss", 3.0, 1.0, 2.0))["step"] == 10
    assert stop.is_over(rows("eval_loss", 3.0, 1.0, 2.0))
    assert not stop.is_over(rows("eval_loss", 3.0, 2.0, 1.0))
