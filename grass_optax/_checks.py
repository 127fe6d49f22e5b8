"""Arguments that cannot work are errors when a transformation is built.

Members: one_of, positive.
"""

import operator
from collections.abc import Iterable
from typing import Any


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """The value, if it is one of the choices, or an error that names it."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; needed is one of {', '.join(map(repr, choices))}.")
    return str(value)


def positive(name: str, value: Any) -> int:
    """The value as an int of at least 1, or an error that names it."""
    try:
        value = operator.index(value)
    except TypeError as error:
        raise ValueError(
            f"{name} is {value!r}; it shapes the computation, so it must be a Python integer. "
            "Under optax.inject_hyperparams name it in static_args."
        ) from error
    if value <= 0:
        raise ValueError(f"{name} is {value}; give 1 or more.")
    return int(value)
