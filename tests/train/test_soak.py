"""A short form of the soak: two runs, interrupted at random."""

from pathlib import Path

import pytest

from tests.train.small_run import Launcher
from tests.train.soak import Soak


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variant", ["", "in_backward"])
def test_runs_that_are_interrupted_end_as_one_that_is_not(variant: str, launcher: Launcher, tmp_path: Path) -> None:
    soak = Soak(launcher, tmp_path, variant)
    for number in range(2):
        assert soak.round(number, most=3)["interruptions"]
