"""The learning rate of every update, over all schedules, lengths and warm-ups."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config.run import UserError
from train.config.schedule import ScheduleFlags, ScheduleName, updates_in
from train.config.validate import check_schedule
from train.program.optimizer import make_schedule

SCHEDULES = get_args(ScheduleName)
LONGEST = 400
ULP = 1.2e-7  # relative, of float32


def rates(peak: float, flags: ScheduleFlags) -> np.ndarray:
    """The rate of each update; of longer arrays, so that each operation is compiled once."""
    found = np.broadcast_to(make_schedule(peak, flags)(np.arange(LONGEST)), LONGEST)
    return found[: flags.steps].astype(np.float64)


@st.composite
def runs(draw: st.DrawFn) -> ScheduleFlags:
    steps = draw(st.integers(2, LONGEST))
    warmup = draw(st.integers(0, steps - 1))
    return ScheduleFlags(
        steps=steps,
        schedule=draw(st.sampled_from(SCHEDULES)),
        warmup=warmup,
        cooldown=draw(st.integers(1, steps - max(warmup, 1))),
        final_lr_fraction=draw(st.just(0.0) | st.floats(1e-6, 1)),
    )


@settings(max_examples=25, deadline=None)
@given(runs(), st.floats(1e-6, 1.0))
def test_the_peak_ends_the_warmup_and_the_last_update_has_the_final_fraction(flags: ScheduleFlags, peak: float) -> None:
    check_schedule(flags)
    found, warmup = rates(peak, flags), flags.warmup_updates
    last = peak if flags.schedule == "constant" else flags.final_lr_fraction * peak
    assert found[-1] == np.float32(last)
    np.testing.assert_allclose(found[max(warmup - 1, 0)], peak, rtol=2 * ULP)
    rise = peak * np.arange(1, warmup + 1) / max(warmup, 1)
    np.testing.assert_allclose(found[:warmup], rise, rtol=0, atol=2 * ULP * peak)  # Optax subtracts from the peak
    assert np.all(np.diff(found[max(warmup - 1, 0) :]) <= ULP * peak)


@settings(max_examples=15, deadline=None)
@given(runs())
def test_the_learning_rate_is_that_of_the_formula(flags: ScheduleFlags) -> None:
    """In float64: `progress` runs from 0 at the peak to 1 at the last update."""
    first = max(flags.warmup_updates - 1, 0)
    length, last = flags.steps - 1 - first, flags.final_lr_fraction
    for t, rate in enumerate(rates(1.0, flags)):
        progress = (t - first) / length
        factor = {
            "cosine": last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2,
            "linear": last + (1 - last) * (1 - progress),
            "wsd": last + (1 - last) * min((length - (t - first)) / flags.cooldown_updates, 1),
            "constant": 1.0,
        }[flags.schedule]
        if t >= first:
            assert abs(rate - factor) < 1e-5, t  # float32, the cosine of a rounded angle


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_one_update_is_at_the_peak(schedule: ScheduleName) -> None:
    assert rates(2.0, ScheduleFlags(steps=1, schedule=schedule, warmup=0, cooldown=1)) == [2.0]


def test_a_part_is_a_number_of_updates_or_a_percentage() -> None:
    assert updates_in(30, 300) == updates_in("10%", 300) == 30
    assert updates_in("29%", 100) == 29  # where 0.29 * 100 is below 29
    assert updates_in("0.5%", 1000) == 5
    assert ScheduleFlags(steps=300, warmup="10%", cooldown=7).warmup_updates == 30


def test_the_line_of_wsd_must_fit_after_the_peak() -> None:
    check_schedule(ScheduleFlags(steps=10, schedule="wsd", warmup=4, cooldown=6))
    for cooldown in (0, 7):
        with pytest.raises(UserError, match="must be at least 1 and at most 6 updates, those after the peak"):
            check_schedule(ScheduleFlags(steps=10, schedule="wsd", warmup=4, cooldown=cooldown))
