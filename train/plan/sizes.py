"""Sizes of memory, as people write and read them."""

import re

from train.config.run import UserError

UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT")
}
SMALLEST = 10**6  # bytes; a plain number below it was meant to have a unit


def parsed_size(text: str) -> int:
    """Return the bytes of `24GiB`, `24GB`, or a plain number of bytes.

    Raises:
      UserError: If it is none of these, or too small to be a memory.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    units = {name.lower(): size for name, size in UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise UserError(f"--memory {text} is not a size: give a number and a unit, for example 24GiB or 80GB.")
    size = int(float(match[1]) * units[match[2].lower()])
    if size < SMALLEST:
        raise UserError(f"--memory {text} is {size} bytes, less than any device has: give a unit, for example 24GiB.")
    return size


def mb(size: int) -> str:
    """Return millions of bytes, to the kilobyte."""
    return f"{size / 1e6:,.3f}"


def gb(size: int) -> str:
    """Return billions of bytes with their unit, or millions if there are fewer."""
    return f"{size / 1e9:,.2f} GB" if abs(size) >= 1e9 else f"{size / 1e6:,.2f} MB"
