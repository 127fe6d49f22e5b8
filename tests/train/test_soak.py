"""A short form of the soak: runs that are interrupted at random."""

from pathlib import Path

import pytest

from tests.train.small_run import Launcher
from tests.train.soak import Soak


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("variant", "rounds"),
    [("", 1), *(pytest.param(*case, marks=pytest.mark.long) for case in (("", 2), ("in_backward", 2)))],
)
def test_runs_that_are_interrupted_end_as_one_that_is_not(
    variant: str, rounds: int, launcher: Launcher, tmp_path: Path
) -> None:
    soak = Soak(launcher, tmp_path, variant)
    for number in range(rounds):
        assert soak.round(number, most=3)["interruptions"]
