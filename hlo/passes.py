"""The passes over memory of a compiled program: what each of its kernels reads and writes.

A kernel is an instruction of the entry computation that is no view. It is taken to read each of its
operands once, as a whole, and to write its result once. Loops and conditionals are left out: in an
update they are the refresh.
"""

import math
from typing import NamedTuple

from hlo.program import Instruction, Program, operands, parsed, shapes

# What moves no bytes.
VIEWS = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota",
})  # fmt: skip
BRANCHES = frozenset({"while", "conditional"})


class Pass(NamedTuple):
    """One kernel."""

    name: str
    source: str  # the operation of JAX that it comes from
    read: float  # bytes
    written: float


def passes(text: str) -> list[Pass]:
    """Return the kernels of every run of a program, `compiled.as_text()`, in their order.

    Raises:
      ValueError: If the text is not that of a compiled program.
    """
    program = parsed(text)
    return [_pass(program, one) for one in program.computations[program.entry] if one.opcode not in VIEWS | BRANCHES]


def _pass(program: Program, kernel: Instruction) -> Pass:
    results = {one.name: one.result for one in program.computations[program.entry]}
    read = sum(_bytes(results[name]) for name in set(operands(kernel)))
    source = kernel.rest.partition('op_name="')[2].partition('"')[0]
    return Pass(kernel.name, source, read, _bytes(kernel.result))


def _bytes(result: str) -> float:
    return math.fsum(shape.bytes for shape in shapes(result))
