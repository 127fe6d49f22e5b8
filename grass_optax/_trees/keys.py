"""The key behind every random draw: a function of the user's key and of which matrix it is for.

A matrix has a name, the path of its leaf without the integers in it, and an index: these integers,
then its place in the batch axes of the leaf. So matrix 3 of the stack `layers/kernel` and the leaf
`layers/3/kernel` have the same draws, and adding a leaf changes no other leaf's draws.

This has a limit. A part such as `layers_3`, as Flax Linen names layers, is a name and not an index,
so such a leaf does not draw what the stack draws. Two leaves of one tree can have the same name and
indices. Then their order decides.
"""

import collections
import contextlib
import contextvars
import functools
import operator
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from grass_optax._trees.paths import Path, leaf_path

_IMPLEMENTATION = "threefry2x32"  # its bits depend neither on the backend nor on the sharding
_FIRST: contextvars.ContextVar[Any] = contextvars.ContextVar("_FIRST", default=None)


def checked_key(key: jax.Array | np.ndarray | int) -> jax.Array | int:
    """Return a key that `typed_key` can use.

    An int becomes a key only when it is used: building an optimizer must not start JAX's backend.

    Raises:
      ValueError: not an int, an integer scalar, a threefry key or the data of one.
    """
    needed = f"Give an int, or jax.random.key(seed, impl={_IMPLEMENTATION!r})."
    if isinstance(key, np.ndarray):
        key = jnp.asarray(key)
    if not isinstance(key, jax.Array):
        try:
            number = operator.index(key)
        except TypeError as error:
            raise ValueError(f"key is {key!r}. {needed}") from error
        if not -(2**63) <= number < 2**64:
            raise ValueError(f"key is {number}, which has more than 64 bits. {needed}")
        return number
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if is_typed and str(jax.random.key_impl(key)) != _IMPLEMENTATION:
        raise ValueError(
            f"key is of the {jax.random.key_impl(key)} implementation, whose bits depend on "
            f"backend and sharding. {needed}"
        )
    is_seed = jnp.issubdtype(key.dtype, jnp.integer) and key.shape == ()
    is_data = key.dtype == jnp.uint32 and key.shape == (2,)
    if not (is_seed or is_data or (is_typed and key.shape == ())):
        raise ValueError(f"key is an array of shape {key.shape} and type {key.dtype}. {needed}")
    return key


def typed_key(key: jax.Array | int) -> Key[Array, ""]:
    """Return the threefry key that a checked key stands for."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array) and key.ndim == 1:
        return jax.random.wrap_key_data(key, impl=_IMPLEMENTATION)
    return jax.random.key(key, impl=_IMPLEMENTATION)


def path_numbers(path: Path) -> tuple[int, ...]:
    """The numbers of a leaf: the CRC-32 of its name, then the integers in its path."""
    parts = leaf_path(path).split("/")
    name = "/".join(part for part in parts if not part.isdecimal())
    return (zlib.crc32(name.encode()), *(int(part) % 2**32 for part in parts if part.isdecimal()))


def numbers_of(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """The numbers of every leaf of a tree. Where those of several are the same, as of {"a": {"b":
    x}} and {"a/b": y}, the second gets one more number, and so on.
    """
    seen: collections.Counter[tuple[int, ...]] = collections.Counter()
    numbers: dict[Path, tuple[int, ...]] = {}
    for path in paths:
        own = path_numbers(path)
        numbers[tuple(path)] = (*own, seen[own]) if seen[own] else own
        seen[own] += 1
    return numbers


def matrix_numbers(leaf: tuple[int, ...], batch: tuple[int, ...]) -> UInt32[Array, "*b k"]:
    """The numbers of every matrix of a leaf: the leaf's, then its index in the batch axes."""
    own = np.asarray(leaf, np.uint32)
    index = np.moveaxis(np.indices(batch, np.uint32), 0, -1)
    numbers = jnp.asarray(np.concatenate([np.broadcast_to(own, (*batch, own.size)), index], axis=-1))
    first = first_index()
    return numbers if first is None or not batch else numbers.at[..., own.size].add(first.astype(jnp.uint32))


@contextlib.contextmanager
def part_of_stacks(first: Int[Array, ""] | None) -> Iterator[None]:
    """While entered, a stack is a part of a longer one, whose matrices from `first` on it holds:
    they draw what they draw there.

    A function that is compiled on its own must be given `first_index()` as an argument, and enter
    this again.
    """
    token = _FIRST.set(first)
    try:
        yield
    finally:
        _FIRST.reset(token)


def first_index() -> Int[Array, ""] | None:
    """The index of the first matrix of every stack; None for 0."""
    first: Array | None = _FIRST.get()
    return first


def folded(key: Key[Array, ""], numbers: UInt32[Array, " k"]) -> Key[Array, ""]:
    """The key of one matrix: its numbers folded into a key, one after the other."""
    return functools.reduce(jax.random.fold_in, numbers, key)
