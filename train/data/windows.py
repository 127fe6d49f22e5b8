"""Batches of tokens, as a pure function of (seed, step).

`training_windows` and `held_out_batches` are Grain datasets over contiguous windows of the tokens
of a text (`train.data.tokens`). The indices of a batch follow from the step, so the datasets have
no state to save, and each process can read just the rows of its own devices.
"""

from collections.abc import Callable
from typing import Any, Protocol

import grain
import jax
import numpy as np

from train.config.run import DataFlags, UserError


class Sliced(Protocol):
    """An array of tokens, or a file of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class Windows:
    """Contiguous windows of `seq_len + 1` tokens; each token is predicted in exactly one window."""

    def __init__(self, tokens: Sliced, seq_len: int) -> None:
        self.tokens, self.seq_len = tokens, seq_len

    def __len__(self) -> int:
        return max(len(self.tokens) - 1, 0) // self.seq_len

    def __getitem__(self, index: int) -> np.ndarray:
        start = index * self.seq_len
        return np.asarray(self.tokens[start : start + self.seq_len + 1], dtype=np.int32)


def training_windows(tokens: Sliced, config: DataFlags) -> grain.MapDataset:
    """Return the endless dataset of training windows (T + 1,); update t + 1 uses windows t B to
    (t + 1) B - 1.

    Every window occurs once per epoch, in an order drawn for each epoch.
    """
    windows = grain.MapDataset.source(_windows(tokens, config, "training"))
    return windows.seed(config.seed).shuffle().repeat()


def training_rows(windows: grain.MapDataset, step: int, batch_size: int) -> Callable[[int, int], Any]:
    """Return the function that reads rows [start, stop) of the batch of update `step` + 1, where a
    row is an array or a tree of arrays.
    """

    def rows(start: int, stop: int) -> Any:
        parts = [windows[step * batch_size + row] for row in range(start, stop)]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)

    return rows


def held_out_batches(tokens: Sliced, config: DataFlags, count: int) -> grain.MapDataset:
    """Return up to `count` batches (B, T + 1) of held-out windows, the same for every seed; all of
    them if `count` is 0.
    """
    windows = grain.MapDataset.source(_windows(tokens, config, "held-out")).seed(0).shuffle()
    return windows.batch(config.batch_size, drop_remainder=False)[: count or None]


def _windows(tokens: Sliced, config: DataFlags, side: str) -> Windows:
    windows = Windows(tokens, config.seq_len)
    if not windows:
        raise UserError(
            f"the {side} text of --data {config.data} has {len(tokens)} tokens, but a window needs "
            f"{config.seq_len + 1}: use more text or a smaller --seq-len."
        )
    return windows
