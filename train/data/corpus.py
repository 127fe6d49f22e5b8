"""Reading a text that is larger than memory.

`pieces` reads a source as a stream. `survey` reads it once and returns what must be known before
the second reading: repeated documents, the held-out ones, and a sample for the tokenizer. It keeps
some 130 bytes for each document and none of the text but the sample.
"""

import hashlib
import heapq
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from train.data.formats import Unreadable
from train.data.plan import DIGEST, HELD_OUT, Piece, Plan, plan_of
from train.data.sources import Source

SAMPLE = 32_000_000  # bytes to train a tokenizer on: twice the default corpus
# Raises the error, or returns to skip the rest of the file; the number is of a document half read.
Refuse = Callable[[Unreadable, int | None], None]


class Survey(NamedTuple):
    """The result of the first reading: the plan, and training text for a tokenizer."""

    plan: Plan
    sample: list[str]


def pieces(source: Source, megabytes: float, refuse: Refuse) -> Iterator[Piece]:
    """Read a source, at most `megabytes` (0: all) of it: the last document is cut.

    After an error that `refuse` does not raise again, reading continues with the next file.
    """
    budget = int(megabytes * 1e6) if megabytes and not source.counts_whole else 1 << 62
    left = {True: int(HELD_OUT * budget), False: budget, None: budget}
    number = -1
    for part in source.parts():
        half_read = None
        try:
            for document in part:
                half_read = number = number + 1
                start, side = 0, document.is_held_out
                for text in document.pieces:
                    whole = text.encode()
                    utf8 = whole[: left[side]].decode(errors="ignore").encode() if len(whole) > left[side] else whole
                    yield Piece(number, document.name, start, utf8, side)
                    start, left[side] = start + len(utf8), left[side] - len(whole)
                    if left[side] <= 0:
                        break
                half_read = None
                if left[side] <= 0 and not side:
                    return
                if left[side] <= 0:
                    break
        except Unreadable as error:
            refuse(error, half_read)
            if half_read is not None:
                left[side] += start


def documents(source: Source, megabytes: float) -> Iterator[str]:
    """Yield the different documents of a source, but not its own validation split, one by one."""

    def refuse(error: Unreadable, _: object) -> None:
        raise error

    seen: set[bytes] = set()
    read = (piece for piece in pieces(source, megabytes, refuse) if not piece.is_held_out)
    for _, parts in itertools.groupby(read, key=lambda piece: piece.document):
        text = b"".join(piece.utf8 for piece in parts)
        if text and (digest := hashlib.sha256(text).digest()[:DIGEST]) not in seen:
            seen.add(digest)
            yield text.decode()


def survey(source: Source, megabytes: float, refuse: Refuse, add: Callable[[int], None]) -> Survey:
    """Read a source once; `add` is called with the bytes that were read."""
    documents, sample, void = _Documents(), _Sample(), []

    def refuse_or_void(error: Unreadable, number: int | None) -> None:
        refuse(error, number)
        void.extend([] if number is None else [number])

    for piece in pieces(source, megabytes, refuse_or_void):
        documents.add(piece)
        sample.add(piece)
        add(len(piece.utf8))
    plan = documents.plan(void)
    chosen = [text for piece in sample.pieces() for is_held_out, text in plan.sides(piece) if not is_held_out]
    return Survey(plan, chosen)


class _Documents:
    """Digests, sizes and sides of the documents of a stream."""

    def __init__(self) -> None:
        self._digests, self._sizes, self._sides = bytearray(), array("q"), array("b")
        self._hash = hashlib.sha256()

    def add(self, piece: Piece) -> None:
        while len(self._sizes) <= piece.document:  # documents without any text have no pieces
            self._close()
            self._sizes.append(0)
            self._sides.append(0 if piece.is_held_out is None else 1 if piece.is_held_out else -1)
        self._hash.update(piece.utf8)
        self._sizes[-1] += len(piece.utf8)

    def plan(self, void: Sequence[int]) -> Plan:
        self._close()
        digests = np.frombuffer(bytes(self._digests), np.uint8).reshape(-1, DIGEST)
        void = [number for number in void if number < len(self._sizes)]
        return plan_of(digests, np.array(self._sizes), np.array(self._sides), void)

    def _close(self) -> None:
        if self._sizes:
            self._digests += self._hash.digest()[:DIGEST]
            self._hash = hashlib.sha256()


class _Sample:
    """The pieces with the largest hashes, up to `SAMPLE` bytes: a random choice that is the same in
    any order of reading.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, Piece]] = []
        self._hashes: set[int] = set()
        self._size, self._floor = 0, -1

    def add(self, piece: Piece) -> None:
        key = int.from_bytes(hashlib.sha256(piece.utf8).digest()[:8], "big")
        if key <= self._floor or key in self._hashes:
            return
        heapq.heappush(self._heap, (key, piece))
        self._hashes.add(key)
        self._size += len(piece.utf8)
        while self._size > SAMPLE:
            self._floor, least = heapq.heappop(self._heap)
            self._hashes.remove(self._floor)
            self._size -= len(least.utf8)

    def pieces(self) -> list[Piece]:
        """Return them in order of reading."""
        return sorted(piece for _, piece in self._heap)
