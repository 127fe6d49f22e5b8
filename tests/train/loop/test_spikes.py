"""Skipped updates are counted, and a spike is far above the usual loss, after a resume too."""

import math

from train.loop.spikes import FEWEST, Skips


def rows(*losses: float | None) -> list[dict[str, float]]:
    return [{} if loss is None else {"loss": loss} for loss in losses]


def test_skipped_updates_are_counted_in_all_and_in_a_row() -> None:
    skips = Skips(0.0, rows(1.0, None, None, 2.0, None))
    assert (skips.total, skips.in_a_row) == (3, 1)
    skips.add(None)
    assert (skips.total, skips.in_a_row) == (4, 2)
    skips.add(1.0)
    assert (skips.total, skips.in_a_row) == (4, 0)
    assert skips.highest(7) == math.inf


def test_a_spike_is_measured_by_the_median() -> None:
    losses = [float(i) for i in range(1, FEWEST + 2)]
    assert Skips(2.0, rows(*losses[:-2])).highest(FEWEST) == math.inf  # too few
    assert Skips(2.0, rows(*losses)).highest(FEWEST + 1) == 2.0 * (FEWEST + 1) / 2
    assert Skips(2.0, rows(*losses, None, 1.0)).highest(FEWEST + 3) == 2.0 * (FEWEST + 2) / 2


def test_the_limit_does_not_depend_on_what_is_known_of_the_last_update() -> None:
    running, losses = Skips(3.0, []), [5.0 + math.sin(i) for i in range(250)]
    for step in range(1, 251):  # update `step` starts before the one before it is recorded
        resumed = Skips(3.0, rows(*losses[: step - 1]))
        assert running.highest(step - 1) == resumed.highest(step - 1)
        if step > 1:
            running.add(losses[step - 2])
        assert running.highest(step - 1) == resumed.highest(step - 1)
