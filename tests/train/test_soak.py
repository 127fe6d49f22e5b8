"""A short form of the soak: runs that are interrupted at random."""

import json
from pathlib import Path

import pytest

from tests.train.small_run import Launcher
from tests.train.soak import Soak, rounds_of


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("variant", "rounds"),
    [("", 1), *(pytest.param(*case, marks=pytest.mark.long) for case in (("", 2), ("in_backward", 2)))],
)
def test_runs_that_are_interrupted_end_as_one_that_is_not(
    variant: str, rounds: int, launcher: Launcher, tmp_path: Path
) -> None:
    soak, file = Soak(launcher, tmp_path, variant), tmp_path / "rounds.json"
    assert rounds_of(file) == []
    made = [soak.round(number, most=3) for number in range(rounds)]
    assert all(row["interruptions"] for row in made)
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert rounds_of(file) == made
