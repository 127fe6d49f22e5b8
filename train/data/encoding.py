"""Texts as tokens: many at once, in parallel, and long ones in pieces."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

Item = TypeVar("Item")

AT_ONCE = 4 << 20  # characters of text that are encoded at once: encodings are thirty times larger
PIECE = 1 << 20  # characters of a text, of which a longer one is encoded in pieces
# A text is cut at one of the last `TRIES` ends of words of a piece, if the tokens of `NEAR`
# characters on both sides stay the same. No word is as long, and patterns look at words.
TRIES, NEAR = 100, 1000
_END_OF_WORD = re.compile(r"(?<=\w)(?=\s)")


def encode_all(tokenizer: Tokenizer, texts: Iterable[str], add: Callable[[int], None]) -> Iterator[np.ndarray]:
    """Yield the tokens of each text, the same as if it were encoded alone, without special tokens.

    `add` is called with the bytes of text that are encoded.
    """

    def encoded() -> Iterator[tuple[int, np.ndarray]]:
        parts = ((number, part) for number, text in enumerate(texts) for part in pieces_of(tokenizer, text))
        for batch in in_batches(parts, lambda part: len(part[1])):
            tokens = encode_texts(tokenizer, [text for _, text in batch], np.dtype(np.int32))
            for (number, text), ids in zip(batch, tokens, strict=True):
                add(len(text.encode()))
                yield number, ids

    for _, parts in itertools.groupby(encoded(), key=lambda part: part[0]):
        yield np.concatenate([ids for _, ids in parts])


def encode_texts(tokenizer: Tokenizer, texts: list[str], dtype: np.dtype) -> list[np.ndarray]:
    """Return the tokens of each text, encoded in parallel."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [np.asarray(encoding.ids, dtype) for encoding in encodings]


def in_batches(items: Iterable[Item], size_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield items in lists of about `AT_ONCE` characters."""
    batch, size = list[Item](), 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def pieces_of(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Yield a text in pieces whose tokens, one after the other, are those of the text.

    Where no cut is found, as for a tokenizer that puts a mark before every text, the rest is whole.
    """
    start = 0
    while len(text) - start > PIECE:
        ends = [match.start() for match in _END_OF_WORD.finditer(text, start + PIECE // 2, start + PIECE)]
        cut = next((end for end in ends[: -TRIES - 1 : -1] if _keeps_tokens(tokenizer, text, end)), None)
        if cut is None:
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def _keeps_tokens(tokenizer: Tokenizer, text: str, cut: int) -> bool:
    before, after = text[max(cut - NEAR, 0) : cut], text[cut : cut + NEAR]
    whole, *parts = (tokenizer.encode(part, add_special_tokens=False).ids for part in (before + after, before, after))
    return whole == [*itertools.chain(*parts)]
