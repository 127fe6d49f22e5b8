"""Packing: texts of several lengths into rows of one length."""

from collections import defaultdict
from collections.abc import Sequence


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Put items into rows of `size`, each into the fullest row with enough room, the longest first.

    This is best-fit decreasing: at most 11/9 of the fewest rows possible, and a few more (Johnson
    1973). An item takes a constant number of operations on a mask of `size` bits.

    Returns:
      The indices of the items of each row.
    """
    rows: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # room -> rows
    mask = 0  # bit i: there is a row with room i
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[item]
        if not 0 < length <= size:
            raise ValueError(f"an item must have a length of 1 to {size}, got {length}.")
        if larger := mask >> length:
            room = length + (larger & -larger).bit_length() - 1
            row = with_room[room].pop()
            mask ^= 0 if with_room[room] else 1 << room
        else:
            room, row = size, len(rows)
            rows.append([])
        rows[row].append(item)
        if left := room - length:
            with_room[left].append(row)
            mask |= 1 << left
    return rows
