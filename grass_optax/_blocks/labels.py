"""Which leaves are in blocks: labels for `optax.partition`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers

from grass_optax._blocks.cuts import in_block
from grass_optax._linalg.dtypes import as_shapes
from grass_optax._trees import layouts
from grass_optax._trees.paths import is_embedding, is_head, require_float


def block_labels(
    blocks: int | Sequence[str], weight_dimension_numbers: layouts.DimensionNumbersOrFn = None
) -> Callable[[optax.Params], PyTree[str]]:
    """A function of params for `optax.partition`: "split" for the leaves in blocks, "adam" for the
    others.

    Where `blocks` is an axis, these are by default the leaves with three axes or more, except
    embeddings and the output head; with dimension numbers, those of which it is a batch axis. Where
    `blocks` are path prefixes, these are the leaves below them.
    """
    if not isinstance(blocks, Sequence):
        return lambda params: _stacked_labels(params, blocks, weight_dimension_numbers)
    if weight_dimension_numbers is not None:
        raise ValueError(
            "weight_dimension_numbers say which leaves stack the blocks along an axis; with path prefixes every leaf "
            "below one is in a block. Give one or the other."
        )

    def label(path: Any, x: jax.Array) -> str:
        require_float(path, x)
        return layouts.SPLIT if any(in_block(path, prefix) for prefix in blocks) else layouts.ADAM

    return lambda params: jax.tree.map_with_path(label, params)


def _stacked_labels(
    params: optax.Params, axis: int, weight_dimension_numbers: layouts.DimensionNumbersOrFn
) -> PyTree[str]:
    def by_default(path: Any, x: jax.Array) -> bool:
        return x.ndim > 2 and not (is_embedding(path) or is_head(path))

    def by_dimension_numbers(x: jax.Array, dims: MuonDimensionNumbers | None) -> bool:
        return dims is not None and axis % x.ndim not in {i % x.ndim for i in jax.tree.leaves(dims)}

    params = as_shapes(params)
    jax.tree.map_with_path(require_float, params)
    if weight_dimension_numbers is None:
        stacked = jax.tree.map_with_path(by_default, params)
        if not any(jax.tree.leaves(stacked)) and any(x.ndim == 2 for x in jax.tree.leaves(params)):
            raise ValueError(
                f"no leaf stacks layers along axis {axis}, so there are no blocks, although there are matrices. Give "
                'the blocks as path prefixes, blocks=["layers/0", ...], or say by weight_dimension_numbers which '
                "leaves are stacked."
            )
    else:
        stacked = jax.tree.map(
            by_dimension_numbers, params, layouts.dimension_numbers(params, weight_dimension_numbers)
        )
    return jax.tree.map(lambda s, x: layouts.SPLIT if s and 0 not in x.shape else layouts.ADAM, stacked, params)
