"""Packing: every item once, no row too full, few rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.packing import pack


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 30), max_size=60))
def test_every_item_is_in_one_row_and_no_row_is_too_full(lengths: list[int]) -> None:
    rows = pack(lengths, 30)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 30 for row in rows)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_two_rows_never_fit_into_one(lengths: list[int]) -> None:
    contents = sorted(sum(lengths[item] for item in row) for row in pack(lengths, 30))
    assert len(contents) == 1 or contents[0] + contents[1] > 30


def test_an_item_goes_into_the_fullest_row_with_room() -> None:
    assert pack([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]
    assert pack([7, 6, 5, 5, 3, 4], 10) == [[0, 4], [1, 5], [2, 3]]


def test_many_items_are_packed_densely() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 20_000).tolist()
    rows = pack(lengths, 513)
    assert sum(lengths) / (513 * len(rows)) > 0.99


@pytest.mark.parametrize("length", [0, 11])
def test_an_item_that_fits_no_row_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match=f"a length of 1 to 10, got {length}"):
        pack([3, length], 10)
