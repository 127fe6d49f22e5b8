"""Which parameters are kernels of the layers: those that have subspaces."""

from typing import Any

import jax
from optax.contrib import MuonDimensionNumbers

from grass_optax import layouts


def kernel_labels(params: Any) -> Any:
    """Tell the kernels of the layers from all other parameters."""
    return layouts.split_labels(0, stacked_kernels)(params)


def stacked_kernels(params: Any, rank: int = 0) -> Any:
    """Mark the kernels (layers, in, out) as stacks of matrices; everything else is left to Adam, as
    are kernels that have no subspace of a rank: few grouped keys at a high rank.
    """

    def numbers(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        is_kernel = jax.tree_util.keystr(path[-1:], simple=True) == "kernel" and leaf.ndim == 3
        return MuonDimensionNumbers(1, 2) if is_kernel and min(leaf.shape[1:]) > rank else None

    return jax.tree.map_with_path(numbers, params)
