"""Batches follow from (seed, step)."""

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest

from train.config.run import DataFlags, UserError
from train.data.windows import Windows, held_out_batches, training_rows, training_windows

TOKENS = np.arange(1000, dtype=np.uint16)  # a window shows where it begins
FLAGS = DataFlags(batch_size=3, seq_len=10, seed=5)


def changed(**flags: object) -> DataFlags:
    return dataclasses.replace(FLAGS, **flags)  # type: ignore[arg-type]


def training_batches(config: DataFlags) -> Callable[[int], np.ndarray]:
    """The batch of each step."""
    windows = training_windows(TOKENS, config)
    return lambda step: training_rows(windows, step, config.batch_size)(0, config.batch_size)


# Batches


def test_a_batch_follows_from_the_seed_and_the_step() -> None:
    steps = list(range(70))  # more than two epochs
    in_order = [training_batches(FLAGS)(step) for step in steps]
    batch = training_batches(FLAGS)
    random.Random(0).shuffle(steps)
    for step in [*steps, *steps]:
        np.testing.assert_array_equal(batch(step), in_order[step])
    assert in_order[0].shape == (3, 11)
    assert in_order[0].dtype == np.int32


def test_seeds_and_steps_give_other_batches() -> None:
    batches = [training_batches(changed(seed=seed))(step).tobytes() for seed in (0, 1, 2) for step in range(50)]
    assert len(set(batches)) == len(batches)


def test_rows_of_a_batch_are_those_of_the_whole() -> None:
    windows = training_windows(TOKENS, FLAGS)
    rows = training_rows(windows, 40, 3)
    assert windows.batch(3)[40].tobytes() == rows(0, 3).tobytes()
    assert rows(0, 3).tobytes() == rows(0, 1).tobytes() + rows(1, 3).tobytes()


def test_every_window_occurs_once_per_epoch_in_a_new_order() -> None:
    windows = (len(TOKENS) - 1) // 10
    assert windows % 3 == 0
    batch = training_batches(FLAGS)
    epochs = [
        np.concatenate([batch(epoch * windows // 3 + step) for step in range(windows // 3)]) for epoch in range(3)
    ]
    firsts = [epoch[:, 0].tolist() for epoch in epochs]
    for first in firsts:
        assert sorted(first) == list(range(0, 10 * windows, 10))
    assert firsts[0] != firsts[1] != firsts[2] != firsts[0]


def test_windows_are_contiguous_and_predict_every_token_once() -> None:
    windows = Windows(TOKENS, 7)
    rows = np.stack([windows[i] for i in range(len(windows))])
    np.testing.assert_array_equal(rows[:, 1:].ravel(), TOKENS[1 : 1 + 7 * len(windows)])
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])
    assert len(TOKENS) - 1 - 7 * len(windows) < 7


def test_held_out_batches_are_the_same_for_every_seed_and_never_repeat() -> None:
    batches = list(held_out_batches(TOKENS, FLAGS, 1000))
    assert sum(map(len, batches)) == 99
    assert len({row.tobytes() for batch in batches for row in batch}) == 99
    some = list(held_out_batches(TOKENS, changed(seed=6), 4))
    assert len(some) == 4
    for batch, same in zip(batches, some, strict=False):
        np.testing.assert_array_equal(batch, same)


def test_too_little_text_for_a_window_is_an_error() -> None:
    for make in (training_windows, lambda *arguments: held_out_batches(*arguments, 1)):
        with pytest.raises(UserError, match=r"has 10 tokens, but a window needs 11.*--seq-len"):
            make(TOKENS[:10], FLAGS)
        assert make(TOKENS[:11], FLAGS)[0].shape[-1] == 11
