"""Arguments that cannot work are errors when a transformation is built."""

import operator
from collections.abc import Iterable
from typing import Any


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` if it is one of the choices; raise an error that names the argument if not."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
    return str(value)


def positive(name: str, value: Any) -> int:
    """Return `value` as an int of at least 1; raise an error that names the argument if not."""
    try:
        value = operator.index(value)
    except TypeError as error:
        raise ValueError(
            f"{name} is {value!r}; it shapes the computation, so it must be a Python integer. "
            "Under optax.inject_hyperparams name it in static_args."
        ) from error
    if not 0 < value < 2**31:
        raise ValueError(f"{name} is {value}; give 1 or more, and less than 2^31.")
    return int(value)
