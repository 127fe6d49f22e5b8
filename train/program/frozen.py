"""Parameters that are not trained, named by patterns of their paths."""

import fnmatch
from typing import Any

import jax

from train.config.run import UserError

Pattern = tuple[str, ...]  # such as "embed/*", with the wildcards of a shell


def parted(params: Any, frozen: Pattern) -> tuple[Any, Any]:
    """Return the trained and the frozen parameters: two trees, each with None for the others."""
    is_frozen = jax.tree.map_with_path(lambda path, _: _matches(path, frozen), params)
    trained = jax.tree.map(lambda x, no: None if no else x, params, is_frozen)
    return trained, jax.tree.map(lambda x, yes: x if yes else None, params, is_frozen)


def joined(trained: Any, frozen: Any) -> Any:
    """Return the parameters that `parted` has separated."""
    return jax.tree.map(lambda x, y: y if x is None else x, trained, frozen, is_leaf=lambda x: x is None)


def check_patterns(params: Any, frozen: Pattern) -> None:
    """Refuse patterns that name nothing, or everything."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    for pattern in frozen:
        if not any(_matches(path, (pattern,)) for path in paths):
            known = sorted({_name(path) for path in paths})
            raise UserError(f"--freeze {pattern} names no parameter: they are {', '.join(known)}.")
    if all(_matches(path, frozen) for path in paths):
        raise UserError(f"--freeze {' '.join(frozen)} leaves nothing to train: name fewer parameters.")


def _matches(path: Any, patterns: Pattern) -> bool:
    return any(fnmatch.fnmatchcase(_name(path), pattern) for pattern in patterns)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
