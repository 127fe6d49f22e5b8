"""What the devices of a mesh send each other in a compiled program, read from its text.

The call graph is walked from the entry, so that what stands in a loop counts as often as the loop
turns. A loop whose turns are known (a scan) multiplies. One whose turns are not known, and a
conditional, are taken for the optimizer's refresh (docs/design.md, "One decision"): what they hold
is set apart, for one turn and for every branch; a loop of unknown turns inside counts once too.

Bytes are those of a ring: 2 (k - 1)/k of an array for a sum that all k devices get, (k - 1)/k for a
gather.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
    "ragged-all-to-all",
)  # fmt: skip
# A TPU's compiler fuses an all-reduce with the slice that a device keeps, in a computation of this
# name.
FUSED_SCATTER = "all-reduce-scatter"
# It also spreads one gather over the fusions that it overlaps with: a chain, which starts where
# this is called.
CHAIN_START = '"AsyncCollectiveStart"'

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([^\s,}]+)")
_CALLED_LIST = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_BODY, _CONDITION = re.compile(r"\bbody=%?([^\s,]+)"), re.compile(r"\bcondition=%?([^\s,]+)")
_KNOWN_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Sent(NamedTuple):
    """Collectives that are alike."""

    kind: str
    dtype: str
    shape: tuple[int, ...]  # of the result on one device
    group_size: int  # of a permute, the two ends of a pair
    at_refresh: bool  # in place of at every step
    times: int
    bytes: int  # that one device sends in all of them


class _Instruction(NamedTuple):
    name: str
    result: str
    opcode: str
    rest: str  # operands and attributes
    is_root: bool


class _Program(NamedTuple):
    computations: dict[str, list[_Instruction]]
    entry: str
    devices: int


_Found = Counter[tuple[str, str, tuple[int, ...], int, bool]]  # the first fields of a Sent -> times


def collectives(text: str) -> list[Sent]:
    """Return what the program `text` (`compiled.as_text()`) sends, the most bytes first."""
    program, found = _parsed(text), _Found()
    _walk(program, program.entry, 1, False, found)
    sent = [Sent(*key, times, round(times * _bytes_of_one(*key[:4]))) for key, times in found.items()]
    return sorted(sent, key=lambda one: (-one.bytes, one))


def total_bytes(sent: list[Sent], *, at_refresh: bool = False) -> int:
    """Return the bytes that a device sends at every step, or beside that at a refresh."""
    return sum(one.bytes for one in sent if one.at_refresh is at_refresh)


def _parsed(text: str) -> _Program:
    computations: dict[str, list[_Instruction]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if line.endswith("{") and not line[:1].isspace():
            current = line.removeprefix("ENTRY ").split(maxsplit=1)[0].removeprefix("%")
            computations[current] = []
            entry = current if line.startswith("ENTRY ") else entry
        elif current and (found := _INSTRUCTION.match(line)) is not None:
            name, result, opcode, rest = found.groups()
            computations[current].append(_Instruction(name, result, opcode, rest, line.lstrip().startswith("ROOT ")))
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY.")
    counts = [
        int(n) for n in re.findall(r"num_partitions=(\d+)|replica_count=(\d+)", text.split("\n", 1)[0]) for n in n if n
    ]
    return _Program(computations, entry, math.prod(counts))


def _walk(program: _Program, name: str, times: int, at_refresh: bool, found: _Found) -> None:
    """Add what a computation sends that is called `times` times."""
    for one in program.computations[name]:
        if one.opcode == "while":
            turns, (condition, body) = _turns(program, name, one), _sides(one)
            # The condition is looked at before every turn, and once more.
            _walk(program, condition, times * ((turns or 0) + 1), at_refresh, found)
            _walk(program, body, times * (1 if turns is None else turns), at_refresh or turns is None, found)
        elif one.opcode.removesuffix("-start") in KINDS:
            for kind, dtype, shape in _arrays(program, name, one):
                found[kind, dtype, shape, _group_size(one.rest, program.devices), at_refresh] += times
        else:
            for called in _called(one):
                _walk(program, called, times, at_refresh or one.opcode == "conditional", found)


def _called(one: _Instruction) -> list[str]:
    if one.opcode.endswith(("-done", "-update")):  # of an asynchronous call, which its start has counted
        return []
    lists = [name.strip().removeprefix("%") for names in _CALLED_LIST.findall(one.rest) for name in names.split(",")]
    return [*_CALLED.findall(one.rest), *filter(None, lists)]


def _sides(loop: _Instruction) -> tuple[str, str]:
    condition, body = _CONDITION.search(loop.rest), _BODY.search(loop.rest)
    if condition is None or body is None:
        raise ValueError(f"a loop is not understood: {loop.rest[:200]}")
    return condition[1], body[1]


def _turns(program: _Program, name: str, loop: _Instruction) -> int | None:
    """Return how often a loop turns; None if that is not known when compiling.

    Most compilers say so. A TPU's does not: there a counter of the carry, which starts at a
    constant and grows by one, is compared with a third.
    """
    if (known := _KNOWN_TURNS.search(loop.rest)) is not None:
        return int(known[1])
    around, condition, body = ({one.name: one for one in program.computations[side]} for side in (name, *_sides(loop)))
    compared = _root(condition)
    if compared.opcode != "compare" or "direction=LT" not in compared.rest:
        return None
    counter, end = _operands(compared)[:2]
    index = re.search(r"\bindex=(\d+)", condition[counter].rest)
    carry, carried = around[_operands(loop)[0]], _root(body)
    if condition[counter].opcode != "get-tuple-element" or not carry.opcode == carried.opcode == "tuple" or not index:
        return None
    grown = _source(body, _operands(carried)[int(index[1])])
    if grown.opcode != "add":
        return None
    start, last = _constant(around, _operands(carry)[int(index[1])]), _constant(condition, end)
    steps = [step for operand in _operands(grown) if (step := _constant(body, operand))]
    if start is None or last is None or len(steps) != 1:
        return None
    return max(math.ceil((last - start) / steps[0]), 0)


def _root(computation: dict[str, _Instruction]) -> _Instruction:
    return next(one for one in computation.values() if one.is_root)


def _operands(one: _Instruction) -> list[str]:
    return re.findall(r"%([^\s,()]+)", one.rest.split(")", 1)[0])


def _constant(computation: dict[str, _Instruction], name: str) -> int | None:
    one = _source(computation, name)
    value = re.match(r"(-?\d+)\)", one.rest)
    return int(value[1]) if one.opcode == "constant" and value else None


def _source(computation: dict[str, _Instruction], name: str) -> _Instruction:
    """Return what an instruction is a copy of, or itself."""
    one = computation[name]
    while one.opcode in ("copy", "bitcast", "convert"):
        one = computation[_operands(one)[0]]
    return one


def _arrays(program: _Program, name: str, one: _Instruction) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (kind, dtype, shape) of each array that a collective makes."""
    inside, kind, result = program.computations[name], one.opcode.removesuffix("-start"), one.result
    if "chain_id=" in one.rest and not any(CHAIN_START in x.rest and one.name in _operands(x) for x in inside):
        return []  # a later piece of it
    if name.startswith(FUSED_SCATTER) and kind == "all-reduce":
        kind, result = "reduce-scatter", next(other.result for other in inside if other.is_root)
    arrays = _ARRAY.findall(result)
    if one.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results), and numbers of its own
        arrays = [array for array in arrays if array != ("u32", "")]
        arrays = arrays[len(arrays) // 2 :]
    return [(kind, dtype, tuple(int(n) for n in dims.split(",") if n)) for dtype, dims in arrays]


def _bytes_of_one(kind: str, dtype: str, shape: tuple[int, ...], k: int) -> float:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
    size = math.prod(shape) * bits / 8
    shares = {
        "all-reduce": 2 * (k - 1) / k,
        "reduce-scatter": k - 1,
        "collective-permute": 1,
        "collective-broadcast": 1,
    }
    return size * shares.get(kind, (k - 1) / k)


def _group_size(attributes: str, devices: int) -> int:
    """Return how many devices take part in one collective, in each of the forms in which XLA writes
    groups.
    """
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
