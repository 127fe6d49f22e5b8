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
        known.update(zip(equation.outvars, rule(equation, read), strict=True))
    return [of(atom) for atom in program.outvars]


def _called(equation: Any, read: list[Inputs]) -> list[Inputs]:
    """Of a call of one program, such as that of a jitted function; else of an operation."""
    count = len(equation.outvars)
    programs = [_body(x) for x in equation.params.values() if isinstance(x, ClosedJaxpr | Jaxpr)]
    if len(programs) == 1 and len(programs[0].invars) == len(read) and len(programs[0].outvars) == count:
        return _outputs(programs[0], read)
    return [frozenset().union(*read)] * count


def _cond(equation: Any, read: list[Inputs]) -> list[Inputs]:
    which, *operands = read
    branches = [_outputs(_body(branch), operands) for branch in equation.params["branches"]]
    return [which.union(*outputs) for outputs in zip(*branches, strict=True)]


def _while(equation: Any, read: list[Inputs]) -> list[Inputs]:
    params = equation.params
    cond_consts, body_consts, carry = _cut(read, params["cond_nconsts"], params["body_nconsts"], len(read))

    def turn(carry: list[Inputs]) -> list[Inputs]:
        (goes_on,) = _outputs(_body(params["cond_jaxpr"]), [*cond_consts, *carry])
        return [goes_on | x for x in _outputs(_body(params["body_jaxpr"]), [*body_consts, *carry])]

    return _until_still(turn, carry)


def _scan(equation: Any, read: list[Inputs]) -> list[Inputs]:
    # Its parameters have other names in each version of JAX. What is scanned over, or stacked, has
    # an axis more outside than inside; constants come first, then the carry.
    program = _body(equation.params["jaxpr"])
    is_slice = [x.aval.ndim != y.aval.ndim for x, y in zip(equation.invars, program.invars, strict=True)]
    is_stacked = [x.aval.ndim != y.aval.ndim for x, y in zip(equation.outvars, program.outvars, strict=True)]
    in_carry = is_stacked.count(False)
    consts, carry, slices = _cut(read, is_slice.count(False) - in_carry, in_carry, len(read))

    def turn(carry: list[Inputs]) -> list[Inputs]:
        return _outputs(program, [*consts, *carry, *slices])[: len(carry)]

    return _outputs(program, [*consts, *_until_still(turn, carry), *slices])


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


def _body(program: Any) -> Any:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


_RULES = {"cond": _cond, "while": _while, "scan": _scan}
