"""The two sides of the matrix in a leaf, as axes of the leaf.

What is computed along them, with `keepdims`, needs no transposition, and a state that keeps its
axes lies on a mesh as its parameter does.
"""

import dataclasses
from typing import Self

import jax
import optax
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers

from grass_optax._linalg.dtypes import as_shapes
from grass_optax._trees import layouts

Axes = tuple[int, ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Sides:
    """Which axes of a leaf make the inputs of its matrix, and which make its outputs.

    As a pytree it is static and has no leaves.

    Attributes:
      inputs: the axes that a layer sums over.
      outputs: the axes that stay.
    """

    inputs: Axes
    outputs: Axes

    @classmethod
    def of(cls, dims: MuonDimensionNumbers) -> Self:
        """The sides that dimension numbers name."""
        inputs, outputs = (tuple(jax.tree.leaves(axes)) for axes in (dims.reduction_axis, dims.output_axis))
        return cls(inputs, outputs)

    @property
    def both(self) -> Axes:
        """The axes of the matrix; all others are batch axes."""
        return self.inputs + self.outputs


def sides_of(params: optax.Params, weight_dimension_numbers: layouts.DimensionNumbersOrFn = None) -> PyTree:
    """Return a tree like params with the `Sides` of every leaf.

    Without dimension numbers every leaf is (input, output).

    Raises:
      ValueError: a leaf is not a matrix, an axis is out of range or named twice, or the dimension
        numbers have another structure.
      TypeError: a leaf is not real floating point.
    """
    params = as_shapes(params)
    layouts.matrix_layouts(params, weight_dimension_numbers)  # raises these errors
    if weight_dimension_numbers is None:
        return jax.tree.map(lambda _: Sides.of(layouts.MATRIX), params)
    dims = layouts.dimension_numbers(params, weight_dimension_numbers)
    return jax.tree.map(lambda _, of_leaf: Sides.of(of_leaf), params, dims)
