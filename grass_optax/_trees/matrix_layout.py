"""One leaf as a batch of matrices (..., m, n), m <= n, and back.

Orientation lives here and nowhere else. The canonical form has the smaller dimension first, so that
the basis lives on it. A square matrix has its reduction (input) axis first.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def is_layout(x: object) -> bool:
    """Whether this is a `MatrixLayout`, a leaf of a tree of them."""
    return isinstance(x, MatrixLayout)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MatrixLayout:
    """How one leaf is seen as (..., m, n).

    As a pytree it is static and has no leaves.

    Attributes:
      shape: of the leaf.
      m_axes: the axes of the leaf that make m.
      n_axes: the axes of the leaf that make n.
    """

    shape: tuple[int, ...]
    m_axes: tuple[int, ...]
    n_axes: tuple[int, ...]

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """The axes of the leaf that are neither in m nor in n, in order."""
        return tuple(i for i in range(len(self.shape)) if i not in self.m_axes + self.n_axes)

    @property
    def batch(self) -> tuple[int, ...]:
        """The sizes of the batch axes."""
        return self._sizes(self.batch_axes)

    @property
    def m(self) -> int:
        """The smaller dimension, where the basis lives."""
        return math.prod(self._sizes(self.m_axes))

    @property
    def n(self) -> int:
        """The larger dimension."""
        return math.prod(self._sizes(self.n_axes))

    def to_matrix(self, x: Shaped[Array, "..."]) -> Shaped[Array, "*b m n"]:
        """The leaf as (..., m, n)."""
        return x.transpose(self._order()).reshape(*self.batch, self.m, self.n)

    def from_matrix(self, x: Shaped[Array, "*b m n"]) -> Shaped[Array, "..."]:
        """The inverse of `to_matrix`."""
        order = self._order()
        return x.reshape(self._sizes(order)).transpose([order.index(i) for i in range(len(order))])

    def sum_over_m(self, x: Shaped[Array, "..."]) -> Shaped[Array, "*b 1 n"]:
        """The sum of each column of `to_matrix(x)`, taken in the leaf: a compiler may turn a matrix
        only to sum it.
        """
        kept = [i for i in range(len(self.shape)) if i not in self.m_axes]
        sums = jnp.sum(x, axis=self.m_axes).transpose([kept.index(i) for i in self.batch_axes + self.n_axes])
        return sums.reshape(*self.batch, 1, self.n)

    def _order(self) -> tuple[int, ...]:
        return self.batch_axes + self.m_axes + self.n_axes

    def _sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.shape[i] for i in axes)
