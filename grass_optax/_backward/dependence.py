"""Which inputs of a function each of its outputs depends on, read off its program."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Inputs = frozenset[int]  # the places of some inputs among all of them


def dependences(f: Callable[..., Any], *args: Any) -> list[Inputs]:
    """Return, for each array that f(*args) returns, the places of the arrays in `args` that it
    depends on.

    Nothing is computed, so `args` may be shapes. Where a part of the program is not understood, its
    outputs are taken to depend on all its inputs.
    """
    program = jax.make_jaxpr(f)(*args)
    return _outputs(program.jaxpr, [frozenset({i}) for i in range(len(program.jaxpr.invars))])


def _outputs(program: Jaxpr, inputs: Sequence[Inputs]) -> list[Inputs]:
    """The dependences of the outputs of a program, given those of its inputs."""
    known: dict[Any, Inputs] = dict(zip(program.invars, inputs, strict=True))

    def of(atom: Any) -> Inputs:
        return frozenset() if isinstance(atom, Literal) else known.get(atom, frozenset())

    for equation in program.eqns:
        read = [of(atom) for atom in equation.invars]
        rule = _RULES.get(equation.primitive.name, _called)
        known.update(zip(equation.outvars, rule(equation.params, read, len(equation.outvars)), strict=True))
    return [of(atom) for atom in program.outvars]


def _called(params: dict[str, Any], read: list[Inputs], count: int) -> list[Inputs]:
    """Of a call of one program, such as that of a jitted function; else of an operation."""
    programs = [p for p in map(_open, params.values()) if p is not None]
    if len(programs) == 1 and len(programs[0].invars) == len(read) and len(programs[0].outvars) == count:
        return _outputs(programs[0], read)
    return [frozenset().union(*read)] * count


def _cond(params: dict[str, Any], read: list[Inputs], count: int) -> list[Inputs]:
    del count
    which, *operands = read
    branches = [_outputs(branch.jaxpr, operands) for branch in params["branches"]]
    return [which.union(*outputs) for outputs in zip(*branches, strict=True)]


def _while(params: dict[str, Any], read: list[Inputs], count: int) -> list[Inputs]:
    of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, carry = _cut(read, of_cond, of_body, count)

    def turn(carry: list[Inputs]) -> list[Inputs]:
        (goes_on,) = _outputs(params["cond_jaxpr"].jaxpr, [*cond_consts, *carry])
        return [goes_on | x for x in _outputs(params["body_jaxpr"].jaxpr, [*body_consts, *carry])]

    return _until_still(turn, carry)


def _scan(params: dict[str, Any], read: list[Inputs], count: int) -> list[Inputs]:
    consts, carry, slices = _cut(read, params["num_consts"], params["num_carry"], len(read))
    program = params["jaxpr"].jaxpr

    def turn(carry: list[Inputs]) -> list[Inputs]:
        return _outputs(program, [*consts, *carry, *slices])[: len(carry)]

    carry = _until_still(turn, carry)
    return _outputs(program, [*consts, *carry, *slices])[:count]


def _until_still(turn: Callable[[list[Inputs]], list[Inputs]], carry: list[Inputs]) -> list[Inputs]:
    """What the carry of a loop depends on after any number of turns."""
    while True:
        after = [old | new for old, new in zip(carry, turn(carry), strict=True)]
        if after == carry:
            return carry
        carry = after


def _cut(read: list[Inputs], *sizes: int) -> Sequence[list[Inputs]]:
    parts = iter(read)
    return [list(itertools.islice(parts, size)) for size in sizes]


def _open(value: Any) -> Jaxpr | None:
    value = value.jaxpr if isinstance(value, ClosedJaxpr) else value
    return value if isinstance(value, Jaxpr) else None


_RULES = {"cond": _cond, "while": _while, "scan": _scan}
