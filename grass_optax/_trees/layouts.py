"""Which leaves of a tree are matrices, and along which of their axes.

Dimension numbers say which axes of a leaf make the matrix, exactly as Optax's Muon takes them:
`optax.contrib.MuonDimensionNumbers(reduction_axis, output_axis)`, each an axis or several. Every
other axis is a batch axis.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers

from grass_optax._linalg.dtypes import as_shapes
from grass_optax._trees.boxes import boxed_like, unboxed
from grass_optax._trees.matrix_layout import MatrixLayout, is_layout
from grass_optax._trees.paths import describe, is_embedding, is_function, is_head, leaf_path, require_float

__all__ = [
    "MatrixLayout",
    "matrix_layouts",
    "map_layouts",
    "split_labels",
    "dimension_numbers",
    "leaf_path",
    "is_embedding",
    "is_head",
    "require_float",
    "DimensionNumbersOrFn",
    "SPLIT",
    "ADAM",
    "MATRIX",
]

# A tree of MuonDimensionNumbers and None, a prefix of one, or a function of params to one.
DimensionNumbersOrFn: TypeAlias = (
    PyTree[MuonDimensionNumbers | None] | Callable[[optax.Params], PyTree[MuonDimensionNumbers | None]]
)

SPLIT, ADAM = "split", "adam"  # the two labels of `split_labels`

MATRIX = MuonDimensionNumbers(reduction_axis=0, output_axis=1)  # of a leaf with two axes, (input, output)


def matrix_layouts(params: optax.Params, weight_dimension_numbers: DimensionNumbersOrFn = None) -> PyTree:
    """Return a tree like params with the `MatrixLayout` of every leaf.

    Args:
      params: a tree of arrays, or of their shapes.
      weight_dimension_numbers: which axes of each leaf make its matrix. None: every leaf is 2-D.

    Returns:
      A tree of layouts; each has `m`, `n` and `to_matrix`, which gives (..., m, n).

    Raises:
      ValueError: a leaf is not a matrix, an axis is out of range or named twice, or the dimension
        numbers have another structure.
      TypeError: a leaf is not real floating point.

    Examples:
      >>> layout = layouts.matrix_layouts({"w": jnp.ones((8, 2))})["w"]
      >>> layout.m, layout.n, layout.to_matrix(jnp.ones((8, 2))).shape
      (2, 8, (2, 8))
    """
    params = as_shapes(params)
    if weight_dimension_numbers is None:
        dims = jax.tree.map(lambda x: MATRIX if x.ndim == 2 else None, params)
    else:
        dims = _resolve(weight_dimension_numbers, params)
    return jax.tree.map_with_path(_layout_or_error, params, dims)


def map_layouts(f: Callable[..., Any], layout: PyTree, *trees: PyTree) -> PyTree:
    """`jax.tree.map` over a tree of layouts and trees like it.

    Args:
      f: a function of a layout and of one leaf of each tree.
      layout: a tree of `MatrixLayout`.
      trees: trees like it.

    Returns:
      A tree like `layout` of what `f` returned.

    Examples:
      >>> params = {"w": jnp.ones((8, 2))}
      >>> of_each = layouts.matrix_layouts(params)
      >>> layouts.map_layouts(layouts.MatrixLayout.to_matrix, of_each, params)["w"].shape
      (2, 8)
    """
    return jax.tree.map(f, layout, *trees, is_leaf=is_layout)


def require_rank(rank: int, layout: Any) -> None:
    """Raise a ValueError if a matrix of the tree has no subspace of this dimension."""
    for path, spec in jax.tree.leaves_with_path(layout, is_leaf=is_layout):
        if rank > spec.m:
            raise ValueError(
                f"rank is {rank}, but leaf {leaf_path(path)!r} is a matrix of {spec.m} x {spec.n}, whose subspaces "
                f"have at most {spec.m} dimensions. Lower rank, or keep the leaf away with optax.partition and "
                "layouts.split_labels."
            )


def split_labels(rank: int, weight_dimension_numbers: DimensionNumbersOrFn = None) -> Callable[[optax.Params], Any]:
    """Label every leaf "split" or "adam", for `optax.partition`.

    A matrix is split if that saves memory: if the basis and two moments in the subspace are fewer
    numbers than Adam's, mr + 2nr < 2mn. For a square matrix that is m > 1.5 r. With dimension
    numbers these are the leaves that have them; one whose min(m, n) is at most `rank` is an error.
    Without them these are the 2-D leaves, except embeddings and the output head, which are
    recognised by their paths (in any case): a part of it contains "embed", ends in "_emb", or is
    one of "emb", "wte", "wpe", "head", "lm_head", "output_head", "logits", "logits_dense"; or the
    first is "out" or "output". A leaf without entries, such as a stack of no layers, is not split.

    Args:
      rank: r, of the subspaces.
      weight_dimension_numbers: which axes of each leaf make its matrix; None for no matrix.

    Returns:
      A function of params to a tree like it of labels. It raises a ValueError if the dimension
      numbers do not fit the params, or name a matrix that has no subspace of this rank.

    Examples:
      >>> params = {"embed": jnp.ones((9, 4)), "dense": {"kernel": jnp.ones((4, 8))}}
      >>> layouts.split_labels(rank=2)(params)
      {'dense': {'kernel': 'split'}, 'embed': 'adam'}
    """

    def label(path: Any, x: Any, dims: MuonDimensionNumbers | None) -> str:
        require_float(path, x)
        if dims is None:
            return ADAM
        spec = _layout_or_error(path, x, dims)
        if 0 in x.shape:
            return ADAM
        if weight_dimension_numbers is not None and rank >= spec.m:
            raise ValueError(
                f"{describe(path, x)} has dimension numbers, but a matrix of {spec.m} x {spec.n} has no subspace of "
                f"rank {rank} to be split by. Lower rank, or give this leaf None instead of dimension numbers."
            )
        return SPLIT if rank * (spec.m + 2 * spec.n) < 2 * spec.m * spec.n else ADAM

    def labels(params: optax.Params) -> Any:
        params = as_shapes(params)
        if weight_dimension_numbers is None:
            dims = jax.tree.map_with_path(_default_dimension_numbers, params)
        else:
            dims = _resolve(weight_dimension_numbers, params)
        return jax.tree.map_with_path(label, params, dims)

    return labels


def dimension_numbers(params: optax.Params, weight_dimension_numbers: DimensionNumbersOrFn) -> Any:
    """Return a tree like params: the checked dimension numbers of each leaf, or None.

    Args:
      params: a tree of arrays, or of their shapes.
      weight_dimension_numbers: a tree like it, a prefix of one, or a function of params to one.

    Returns:
      A `MuonDimensionNumbers` or None for each leaf.

    Raises:
      ValueError: an axis is out of range or named twice, or the structure is another.

    Examples:
      >>> params = {"block": {"up": jnp.ones((2, 8)), "down": jnp.ones((8, 2))}}
      >>> layouts.dimension_numbers(params, {"block": layouts.MATRIX})["block"]["down"]
      MuonDimensionNumbers(reduction_axis=0, output_axis=1)
    """

    def checked(path: Any, x: Any, dims: Any) -> MuonDimensionNumbers | None:
        if dims is not None:
            _layout_or_error(path, x, dims)
        return dims

    params = as_shapes(params)
    return jax.tree.map_with_path(checked, params, _resolve(weight_dimension_numbers, params))


def _default_dimension_numbers(path: Any, x: Any) -> MuonDimensionNumbers | None:
    return MATRIX if x.ndim == 2 and not (is_embedding(path) or is_head(path)) else None


def _resolve(weight_dimension_numbers: DimensionNumbersOrFn, params: optax.Params) -> Any:
    """Dimension numbers as a tree like params, from such a tree, a prefix or a function."""
    dims = weight_dimension_numbers
    if is_function(dims):
        dims = dims(params)
    if not jax.tree.leaves(params):
        return params  # Optax's placeholder, or a tree with nothing to split
    try:
        of_each = jax.tree.map(
            lambda d, part: jax.tree.map(lambda _: d, part),
            unboxed(dims),
            unboxed(params),
            is_leaf=_is_dimension_numbers,
        )
        return boxed_like(of_each, params)
    except ValueError as error:
        raise ValueError(
            f"weight_dimension_numbers must be a tree like params or a prefix of it: {error}. "
            "Give one MuonDimensionNumbers or None per leaf or subtree, or a function of params that does."
        ) from error


def _is_dimension_numbers(x: Any) -> bool:
    return x is None or isinstance(x, MuonDimensionNumbers)


def _layout_or_error(path: Any, x: Any, dims: MuonDimensionNumbers | None) -> MatrixLayout:
    require_float(path, x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{describe(path, x)} is complex: only real matrices can be split. {_EXCLUDE}")
    if dims is None:
        raise ValueError(f"{describe(path, x)} is not a matrix and has no dimension numbers. {_EXCLUDE}")
    if not isinstance(dims, MuonDimensionNumbers):
        raise ValueError(
            f"{describe(path, x)} has dimension numbers {dims!r}; these must be an "
            "optax.contrib.MuonDimensionNumbers or None."
        )
    reduction, output = (_axes(path, x, dims, axes) for axes in dims)
    named = reduction + output
    if len(set(named)) != len(named) or not reduction or not output:
        raise ValueError(
            f"{describe(path, x)} has {dims}: reduction_axis and output_axis must name one axis or more each, and none "
            "twice."
        )
    first = math.prod(x.shape[i] for i in reduction) <= math.prod(x.shape[i] for i in output)
    return MatrixLayout(tuple(x.shape), *((reduction, output) if first else (output, reduction)))


def _axes(path: Any, x: Any, dims: MuonDimensionNumbers, axes: Any) -> tuple[int, ...]:
    axes = tuple(map(operator.index, axes if isinstance(axes, Sequence) else (axes,)))
    if any(not -x.ndim <= i < x.ndim for i in axes):
        raise ValueError(
            f"{describe(path, x)} has {dims}, but its axes are 0 to {x.ndim - 1}. Name axes that it has, or None."
        )
    return tuple(i % x.ndim for i in axes)


_EXCLUDE = (
    "Give it its own transformation with optax.partition (see grass_optax.layouts.split_labels), hide it with "
    "optax.masked, or give it weight_dimension_numbers."
)
