"""Documents as windows in which every token is predicted once, and padding never."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from train.data.encoding import encode_all
from train.data.tokenizer import special_tokens_around, unbounded
from train.storage.model import StoredModel


class Batch(NamedTuple):
    """Windows (B, T + 1), and which of their tokens after the first are predicted (B, T)."""

    windows: np.ndarray
    is_predicted: np.ndarray


def document_batches(
    model: StoredModel,
    texts: Iterable[str],
    batch_size: int,
    seq_len: int,
    add: Callable[[int], None] = lambda _: None,
) -> Iterator[Batch]:
    """Yield the windows of texts in batches of one shape.

    A document is preceded by what the tokenizer puts before a text, which is not predicted, and
    followed by the end of text, which is. No window has tokens of two documents. `add` is called
    with the bytes of text that are encoded.
    """
    before, end = beginning_of(model), [model.end_of_text]
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    for tokens in encode_all(unbounded(model.tokenizer), texts, add):
        document = np.concatenate([before, tokens, end]).astype(np.int32)
        for row in _windows(document, len(before), seq_len):
            rows.append(row)
            if len(rows) == batch_size:
                yield _batch(rows, batch_size, seq_len)
                rows = []
    if rows:
        yield _batch(rows, batch_size, seq_len)


def beginning_of(model: StoredModel) -> list[int]:
    """The tokens before a document."""
    return special_tokens_around(model.prompt_tokenizer())[0] or [model.beginning]


def _windows(tokens: np.ndarray, before: int, seq_len: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield windows of up to `seq_len` + 1 tokens, each with which of its targets are predicted."""
    for start in range(0, len(tokens) - 1, seq_len):
        window = tokens[start : start + seq_len + 1]
        is_predicted = start + 1 + np.arange(len(window) - 1) >= before
        if is_predicted.any():
            yield window, is_predicted


def _batch(rows: list[tuple[np.ndarray, np.ndarray]], batch_size: int, seq_len: int) -> Batch:
    """Pad rows, and their number, with zeros: a token sees none after it."""
    windows = np.zeros((batch_size, seq_len + 1), np.int32)
    is_predicted = np.zeros((batch_size, seq_len), bool)
    for i, (window, predicted) in enumerate(rows):
        windows[i, : len(window)] = window
        is_predicted[i, : len(predicted)] = predicted
    return Batch(windows, is_predicted)
