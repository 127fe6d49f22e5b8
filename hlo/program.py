"""The text of a compiled program, as instructions."""

import math
import re
from typing import NamedTuple

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    result: str  # its type
    opcode: str
    rest: str  # operands and attributes
    is_root: bool


class Program(NamedTuple):
    """The computations of a program, by name."""

    computations: dict[str, list[Instruction]]
    entry: str
    devices: int


class Shape(NamedTuple):
    """The type of an array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> float:
        """Its size."""
        bits = 8 if self.dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", self.dtype))
        return math.prod(self.dims) * bits / 8


def parsed(text: str) -> Program:
    """Read the text of a compiled program, `compiled.as_text()`.

    Raises:
      ValueError: If it is not one.
    """
    computations: dict[str, list[Instruction]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if line.endswith("{") and not line[:1].isspace():
            current = line.removeprefix("ENTRY ").split(maxsplit=1)[0].removeprefix("%")
            computations[current] = []
            entry = current if line.startswith("ENTRY ") else entry
        elif current and (match := _INSTRUCTION.match(line)) is not None:
            name, result, opcode, rest = match.groups()
            computations[current].append(Instruction(name, result, opcode, rest, line.lstrip().startswith("ROOT ")))
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY. Give compiled.as_text().")
    counts = [
        int(n) for n in re.findall(r"num_partitions=(\d+)|replica_count=(\d+)", text.split("\n", 1)[0]) for n in n if n
    ]
    return Program(computations, entry, math.prod(counts))


def operands(instruction: Instruction) -> list[str]:
    """The names of what an instruction reads."""
    return re.findall(r"%([^\s,()]+)", instruction.rest.split(")", 1)[0])


def shapes(result: str) -> list[Shape]:
    """The arrays of a type."""
    return [Shape(dtype, tuple(int(n) for n in dims.split(",") if n)) for dtype, dims in _ARRAY.findall(result)]
