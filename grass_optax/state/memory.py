"""What an optimizer costs in memory, read from shapes alone."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from grass_optax._inner.int8 import from_int8
from grass_optax._split.records import SplitState
from grass_optax._trees.boxes import unboxed
from grass_optax._trees.paths import leaf_path
from grass_optax.state.owners import owners_of, parts_of


class LeafMemory(NamedTuple):
    """State bytes of one leaf of params.

    Attributes:
      path: the path of the leaf, such as "a/b/c".
      shape: the shape of the leaf.
      state_bytes: the bytes of the optimizer's state.
      adam_bytes: the bytes of `optax.adam`'s state.
      blocks: the number of blocks of its basis (`bases.Blocks`, `bases.Fold`), or 1.
    """

    path: str
    shape: tuple[int, ...]
    state_bytes: int
    adam_bytes: int
    blocks: int = 1


class MemoryReport(NamedTuple):
    """State bytes of an optimizer beside those of `optax.adam`. Prints as a table.

    Attributes:
      leaves: a `LeafMemory` for every leaf of params.
      shared_bytes: the bytes of counts and the like, which belong to no leaf.
      total_bytes: the bytes of the whole state.
      adam_bytes: the bytes of the whole state of `optax.adam`.
    """

    leaves: tuple[LeafMemory, ...]
    shared_bytes: int
    total_bytes: int
    adam_bytes: int

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("leaf", "shape", "state bytes", "Adam's", "ratio", "blocks")]
        for leaf in self.leaves:
            shape = " x ".join(map(str, leaf.shape)) or "scalar"
            blocks = str(leaf.blocks) if leaf.blocks > 1 else ""
            rows.append((leaf.path, shape, *_figures(leaf.state_bytes, leaf.adam_bytes), blocks))
        rows.append(("shared", "", f"{self.shared_bytes:,}", "", "", ""))
        rows.append(("total", "", *_figures(self.total_bytes, self.adam_bytes), ""))
        if not any(leaf.blocks > 1 for leaf in self.leaves):
            rows = [row[:-1] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def memory_report(tx: optax.GradientTransformation, params: optax.Params) -> MemoryReport:
    """Return the exact bytes of the state of any Optax transformation, without allocating it.

    For a split leaf of `grassjump` they are 4 (mr + 2nr + 2) per matrix. A leaf that would save
    nothing by it is not split (`layouts.split_labels`), and shows Adam's bytes.

    Args:
      tx: any Optax transformation.
      params: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A `MemoryReport`; printed, it is a table.

    Examples:
      >>> params = {"kernel": jax.ShapeDtypeStruct((512, 1376), jnp.float32)}
      >>> report = grass_optax.memory_report(grass_optax.grassjump(1e-2, rank=128), params)
      >>> report.leaves[0].state_bytes == 4 * (512 * 128 + 2 * 128 * 1376 + 2)
      True
    """
    params = unboxed(params)
    state = jax.eval_shape(tx.init, params)
    params = jax.eval_shape(from_int8, params)
    bytes_of = {path: 0 for path, _ in jax.tree.leaves_with_path(params)}
    adam_bytes_of = dict(bytes_of)
    shared, blocks_of = _attribute(state, params, bytes_of), _block_counts(state)
    adam_shared = _attribute(jax.eval_shape(optax.adam(0.0).init, params), params, adam_bytes_of)
    return MemoryReport(
        leaves=tuple(
            LeafMemory(leaf_path(path), jnp.shape(x), bytes_of[path], adam_bytes_of[path], blocks_of.get(path, 1))
            for path, x in jax.tree.leaves_with_path(params)
        ),
        shared_bytes=shared,
        total_bytes=shared + sum(bytes_of.values()),
        adam_bytes=adam_shared + sum(adam_bytes_of.values()),
    )


def _attribute(state: Any, params: optax.Params, bytes_of: dict[Any, int]) -> int:
    """Add the bytes of each array to the leaf it belongs to, and return those of the others."""
    shared, owner_of = 0, owners_of(state, params)
    for path, x in jax.tree.leaves_with_path(state):
        size = math.prod(x.shape) * x.dtype.itemsize
        if path in owner_of:
            bytes_of[owner_of[path]] += size
        else:
            shared += size
    return shared


def _block_counts(state: Any) -> dict[Any, int]:
    """The number of blocks of the basis of every leaf that is split."""
    return {
        path: number
        for _, split in parts_of(state, SplitState)
        for path, number in jax.tree.leaves_with_path(split.block_counts)
    }


def _figures(state_bytes: int, adam_bytes: int) -> tuple[str, str, str]:
    ratio = f"{state_bytes / adam_bytes:.3f}" if adam_bytes else "-"
    return f"{state_bytes:,}", f"{adam_bytes:,}", ratio
