"""Sizes of memory."""

import pytest

from train.config.run import UserError
from train.plan.sizes import parsed_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("24 gb", 24 * 10**9),
        ("15.75GiB", 15.75 * 2**30),
        ("1TB", 10**12),
        ("25769803776", 24 * 2**30),
        ("25769803776B", 24 * 2**30),
    ],
)
def test_a_size_is_read(text: str, size: float) -> None:
    assert parsed_size(text) == size


@pytest.mark.parametrize("text", ["GiB", "24G", "24 gigabytes", "-24GB", "24GB of memory", "nan", "inf", "1e3GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a size: give a number and a unit, for example 24GiB or 80GB"):
        parsed_size(text)


def test_a_number_that_was_meant_to_have_a_unit_is_refused() -> None:
    with pytest.raises(UserError, match="24 is 24 bytes, less than any device has: give a unit"):
        parsed_size("24")
