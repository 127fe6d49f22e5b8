"""The passes over memory of a compiled program: what each of its kernels reads and writes.

A kernel is an instruction that is no view. It is taken to read each of its operands once, as a
whole, and to write its result once.
"""

import math
from typing import NamedTuple

from hlo.program import Instruction, operands, parsed, shapes

# What moves no bytes, or next to none.
VIEWS = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota",
})  # fmt: skip
BRANCHES = frozenset({"while", "conditional"})


class Kernel(NamedTuple):
    """One kernel."""

    name: str
    opcode: str
    source: str  # the path of JAX functions that it comes from
    read: float  # bytes
    written: float


def regular_kernels(text: str) -> list[Kernel]:
    """Return the kernels of a program, `compiled.as_text()`, outside of loops and conditionals.

    In an update, those are the kernels of a step without a refresh.

    Raises:
      ValueError: If the text is not that of a compiled program.
    """
    program = parsed(text)
    return _kernels(program.computations[program.entry])


def all_kernels(text: str) -> list[Kernel]:
    """Return the instructions of all computations of a program, of loops and fusions too.

    Raises:
      ValueError: If the text is not that of a compiled program.
    """
    return [one for instructions in parsed(text).computations.values() for one in _kernels(instructions)]


def _kernels(instructions: list[Instruction]) -> list[Kernel]:
    written = {one.name: math.fsum(shape.bytes for shape in shapes(one.result)) for one in instructions}
    return [
        Kernel(
            name=one.name,
            opcode=one.opcode,
            source=one.rest.partition('op_name="')[2].partition('"')[0],
            read=sum(written[name] for name in set(operands(one))),
            written=written[one.name],
        )
        for one in instructions
        if one.opcode not in VIEWS | BRANCHES
    ]
