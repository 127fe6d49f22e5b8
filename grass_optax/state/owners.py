"""Which parameter does an array of an optimizer's state belong to?"""

from collections.abc import Container
from typing import Any

import jax


def owner(path: Any, owners: Container[Any]) -> Any:
    """Return the path of the parameter that a state array belongs to, or None.

    It is the longest parameter path that ends the path of the array and follows a field of some
    state. In `SplitState.rule_state` the state of the rule may follow it.
    """
    for start in range(len(path) + 1):
        if start and not isinstance(path[start - 1], jax.tree_util.GetAttrKey):
            continue  # a part of a chain or of a partition
        if path[start:] in owners:
            return path[start:]
        if start and path[start - 1].name == "rule_state":
            return next((path[start:end] for end in range(len(path), start, -1) if path[start:end] in owners), None)
    return None
