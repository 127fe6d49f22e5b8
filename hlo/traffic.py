"""The traffic between the devices of a compiled program, read from its HLO text.

The call graph is walked from the entry. The body of a loop with a known trip count (a scan) counts
once per iteration. What is in a loop of unknown trip count, or in a branch of a conditional, is
reported separately, as `conditional`: for one iteration of each such loop, and for every branch.

Bytes are those of ring algorithms: 2 (k - 1)/k of the array for an all-reduce over k devices,
(k - 1)/k for an all-gather.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

from hlo.program import Instruction, Program, Shape, operands, parsed, shapes

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
    "ragged-all-to-all",
)  # fmt: skip
# A TPU compiler fuses an all-reduce with the slice that a device keeps, in a computation of this
# name.
FUSED_SCATTER = "all-reduce-scatter"
# It also spreads one gather over the fusions that it overlaps with: a chain, which starts where
# this is called.
CHAIN_START = '"AsyncCollectiveStart"'

_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([^\s,}]+)")
_CALLED_LIST = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_BODY, _CONDITION = re.compile(r"\bbody=%?([^\s,]+)"), re.compile(r"\bcondition=%?([^\s,]+)")
_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Sent(NamedTuple):
    """Identical collectives, counted together."""

    kind: str
    dtype: str
    shape: tuple[int, ...]  # of the result on one device
    group_size: int  # 2 for a permute: the ends of a pair
    conditional: bool  # in a branch, or in a loop of unknown trip count
    times: int
    bytes: int  # sent by one device in all of them


_Times = Counter[tuple[str, str, tuple[int, ...], int, bool]]  # the first fields of a Sent -> times


def collectives(text: str) -> list[Sent]:
    """Return the collectives of a program, by bytes in descending order.

    Args:
      text: The HLO text of the program, `compiled.as_text()`.

    Raises:
      ValueError: If the text is not that of a compiled program, or has an unknown form.
    """
    program, times = parsed(text), _Times()
    _walk(program, program.entry, 1, False, times)
    sent = [Sent(*key, count, round(count * _bytes_per_collective(*key[:4]))) for key, count in times.items()]
    return sorted(sent, key=lambda row: (-row.bytes, row))


def total_bytes(sent: list[Sent], *, conditional: bool = False) -> int:
    """Return the bytes that one device always sends, or those that it sends conditionally."""
    return sum(row.bytes for row in sent if row.conditional is conditional)


def _walk(program: Program, name: str, calls: int, conditional: bool, times: _Times) -> None:
    """Count the collectives of a computation that is called `calls` times."""
    for instruction in program.computations[name]:
        if instruction.opcode == "while":
            iterations, (condition, body) = _trip_count(program, name, instruction), _condition_and_body(instruction)
            # The condition is evaluated before every iteration, and once more at the end.
            _walk(program, condition, calls * ((iterations or 0) + 1), conditional, times)
            is_unknown = iterations is None
            _walk(program, body, calls if iterations is None else calls * iterations, conditional or is_unknown, times)
        elif instruction.opcode.removesuffix("-start") in KINDS:
            for kind, dtype, shape in _arrays(program, name, instruction):
                times[kind, dtype, shape, _group_size(instruction.rest, program.devices), conditional] += calls
        else:
            for callee in _callees(instruction):
                _walk(program, callee, calls, conditional or instruction.opcode == "conditional", times)


def _callees(instruction: Instruction) -> list[str]:
    if instruction.opcode.endswith(("-done", "-update")):  # of an asynchronous call, counted at its start
        return []
    lists = _CALLED_LIST.findall(instruction.rest)
    names = [name.strip().removeprefix("%") for names in lists for name in names.split(",")]
    return [*_CALLED.findall(instruction.rest), *filter(None, names)]


def _condition_and_body(loop: Instruction) -> tuple[str, str]:
    condition, body = _CONDITION.search(loop.rest), _BODY.search(loop.rest)
    if condition is None or body is None:
        raise ValueError(f"a while loop has no condition or no body: {loop.rest[:200]}")
    return condition[1], body[1]


def _trip_count(program: Program, name: str, loop: Instruction) -> int | None:
    """Return the trip count of a loop, or None if it is not known at compile time.

    Most compilers annotate it. A TPU compiler does not: there the loop is recognised by a counter
    in its carry that starts at a constant, grows by a constant, and is compared with a constant.
    """
    if (known := _KNOWN_TRIP_COUNT.search(loop.rest)) is not None:
        return int(known[1])
    caller, condition, body = (
        {instruction.name: instruction for instruction in program.computations[computation]}
        for computation in (name, *_condition_and_body(loop))
    )
    comparison = _root(condition)
    if comparison.opcode != "compare" or "direction=LT" not in comparison.rest:
        return None
    counter, end = operands(comparison)[:2]
    index = re.search(r"\bindex=(\d+)", condition[counter].rest)
    first_carry, next_carry = caller[operands(loop)[0]], _root(body)
    are_tuples = first_carry.opcode == next_carry.opcode == "tuple"
    if condition[counter].opcode != "get-tuple-element" or not are_tuples or not index:
        return None
    increment = _source(body, operands(next_carry)[int(index[1])])
    if increment.opcode != "add":
        return None
    start, stop = _constant(caller, operands(first_carry)[int(index[1])]), _constant(condition, end)
    steps = [step for operand in operands(increment) if (step := _constant(body, operand))]
    if start is None or stop is None or len(steps) != 1:
        return None
    return max(math.ceil((stop - start) / steps[0]), 0)


def _root(computation: dict[str, Instruction]) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _constant(computation: dict[str, Instruction], name: str) -> int | None:
    instruction = _source(computation, name)
    value = re.match(r"(-?\d+)\)", instruction.rest)
    return int(value[1]) if instruction.opcode == "constant" and value else None


def _source(computation: dict[str, Instruction], name: str) -> Instruction:
    """Return the instruction that this one copies, or itself."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation[operands(instruction)[0]]
    return instruction


def _arrays(program: Program, name: str, collective: Instruction) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (kind, dtype, shape) of each result of a collective."""
    computation = program.computations[name]
    kind, result = collective.opcode.removesuffix("-start"), collective.result
    starts_chain = any(CHAIN_START in user.rest and collective.name in operands(user) for user in computation)
    if "chain_id=" in collective.rest and not starts_chain:
        return []  # a later piece of a chain
    if name.startswith(FUSED_SCATTER) and kind == "all-reduce":
        kind, result = "reduce-scatter", next(user.result for user in computation if user.is_root)
    arrays = shapes(result)
    if collective.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results), and internal counters
        arrays = [array for array in arrays if array != ("u32", ())]
        arrays = arrays[len(arrays) // 2 :]
    return [(kind, *array) for array in arrays]


def _bytes_per_collective(kind: str, dtype: str, shape: tuple[int, ...], k: int) -> float:
    size = Shape(dtype, shape).bytes
    shares = {
        "all-reduce": 2 * (k - 1) / k,
        "reduce-scatter": k - 1,
        "collective-permute": 1,
        "collective-broadcast": 1,
    }
    return size * shares.get(kind, (k - 1) / k)


def _group_size(attributes: str, devices: int) -> int:
    """Return the number of devices in one group of a collective, for each notation of XLA."""
    if "source_target_pairs=" in attributes:
        return 2
    if "replica_groups={}" in attributes:
        return devices
    if (listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)) is not None:
        return listed[1].count(",") + 1
    if (iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)) is not None:
        return int(iota[1])
    of_mesh = re.search(r"replica_groups=mesh\[(.*?)\].*? \{('[^}]*)\}", attributes)
    if of_mesh is None:
        raise ValueError(f"the groups of a collective are not understood: {attributes[:200]}")
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", of_mesh[1]))
    # A part of an axis is written 'axis':(devices before it)size.
    return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", of_mesh[2]))
