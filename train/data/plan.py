"""What becomes of the documents of a text: each is kept once, and 5 % of the bytes are held out.

A plan follows from the digests and sizes of all documents, so it depends neither on the names of
files nor on how the text is divided into files, except on the order in which equal documents are
read.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

HELD_OUT = 0.05  # of the bytes
ENOUGH = 0.04  # in whole documents; if they are less, one document is cut
DIGEST = 16  # bytes of SHA-256: 2^64 documents before two are taken for the same
ENDS = (b"\n", b". ", b" ")  # where a document may be cut, the best first


class Piece(NamedTuple):
    """A part of a document.

    Attributes:
      document: Number of the document, in order of reading.
      name: Where it is.
      start: Bytes of the document before it.
      utf8: The text.
      is_held_out: The side that the source puts it on, or None.
    """

    document: int
    name: str
    start: int
    utf8: bytes
    is_held_out: bool | None


class Plan(NamedTuple):
    """What becomes of each document.

    Attributes:
      digests: (N, 16), the first bytes of the SHA-256 of each document.
      sizes: (N,), in bytes.
      is_kept: (N,), False for a repetition.
      is_held_out: (N,).
      cut: The document whose end is held out, and the byte from which on; -1 if there is none.
    """

    digests: np.ndarray
    sizes: np.ndarray
    is_kept: np.ndarray
    is_held_out: np.ndarray
    cut: tuple[int, int]

    @property
    def counts(self) -> tuple[int, int]:
        """Training and held-out documents; one that is cut counts as both."""
        held_out = int((self.is_kept & self.is_held_out).sum())
        return int(self.is_kept.sum()) - held_out, held_out + (self.cut[0] >= 0)

    @property
    def size(self) -> int:
        """Bytes of all documents that are kept."""
        return int(self.sizes[self.is_kept].sum())

    def sides(self, piece: Piece) -> Iterator[tuple[bool, str]]:
        """Yield the parts of a piece, each with whether it is held out; of a repetition, none."""
        number, text = piece.document, piece.utf8
        if not self.is_kept[number]:
            return
        if number != self.cut[0]:
            yield bool(self.is_held_out[number]), text.decode()
            return
        at = max(self.cut[1] - piece.start, 0)
        if 0 < at < len(text):
            # Up to a fifth less is held out: 4 % of the text at least.
            at = _end_near(text, at, slack=(int(self.sizes[number]) - self.cut[1]) // 5)
        for is_held_out, part in ((False, text[:at]), (True, text[at:])):
            if part:
                yield is_held_out, part.decode()

    def identity(self) -> Iterator[bytes]:
        """Yield what identifies the texts of both sides, in order."""
        yield self.digests[self.is_kept].tobytes()
        yield self.is_held_out[self.is_kept].tobytes()
        yield repr((int(self.is_kept[: self.cut[0] + 1].sum()), self.cut[1])).encode()


def plan_of(digests: np.ndarray, sizes: np.ndarray, sides: np.ndarray, void: Sequence[int] = ()) -> Plan:
    """Keep the first of equal documents, and hold out 5 % of the bytes.

    Whole documents are held out in the order of their digests, as long as they fit. If they are
    less than 4 %, the end of the largest document is added.

    Args:
      digests: (N, 16) bytes.
      sizes: (N,) bytes of text; documents without any are dropped.
      sides: (N,) 1 where the source holds a document out, -1 where it does not, 0 where it says
        nothing.
      void: Documents to drop.
    """
    high, low = np.ascontiguousarray(digests).view(">u8").reshape(-1, 2).T
    order = np.lexsort((low, high))  # equal documents stay in order of reading
    is_kept = np.ones(len(sizes), bool)
    is_kept[order[1:][(digests[order][1:] == digests[order][:-1]).all(1)]] = False
    is_kept[list(void)] = False
    is_kept &= sizes > 0
    if sides.any():
        return Plan(digests, sizes, is_kept, sides > 0, (-1, 0))
    is_held_out, cut = np.zeros(len(sizes), bool), (-1, 0)
    kept, total = order[is_kept[order]], int(sizes[is_kept].sum())
    room = HELD_OUT * total
    for number, size in zip(kept.tolist(), sizes[kept].tolist(), strict=True):
        if size <= room:
            is_held_out[number] = True
            room -= size
    if room > (HELD_OUT - ENOUGH) * total:
        largest = int(kept[np.argmax(np.where(is_held_out, 0, sizes)[kept])])
        cut = largest, int(sizes[largest]) - round(room)
    return Plan(digests, sizes, is_kept, is_held_out, cut)


def _end_near(text: bytes, at: int, slack: int) -> int:
    """Return a boundary at most `slack` bytes after `at`, or else that of a character."""
    for end in ENDS:
        if (found := text.find(end, at, at + slack)) >= 0:
            return found + len(end)
    while at < len(text) and text[at] & 0xC0 == 0x80:  # inside a character of UTF-8
        at += 1
    return at
