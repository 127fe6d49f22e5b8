"""A basis that is block-diagonal: each block of rows has a subspace of its own.

The rows are cut into `a` blocks of p = m/a, and the columns into as many of q = r/a::

  S = blockdiag(B_1, .., B_a),  B_i (p, q)

S^T S = I if every B_i has orthonormal columns. The products of a step take 4mnr/a operations
instead of 4mnr, and S is mr/a numbers. One block is a dense basis; m blocks with one row each, of
which r are kept, would be columns of the identity.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from grass_optax.bases.dense import Dense

# The narrowest blocks that `number_of_blocks` makes, in columns. It is the same on all devices, so
# that a run is: docs/decisions/bases.md has what was measured.
WIDTH = 32


class Blocks(NamedTuple):
    """A block-diagonal basis.

    Attributes:
      blocks: (..., a, p, q) with m = a p and r = a q; block i has the rows from i p and the columns
        from i q.

    Examples:
      >>> basis = bases.Blocks(jnp.array([[[1.0], [0.0]], [[0.0], [1.0]]]))
      >>> basis.to_matrix()
      Array([[1., 0.],
             [0., 0.],
             [0., 0.],
             [0., 1.]], dtype=float32)
      >>> basis.project(jnp.array([[1.0], [2.0], [3.0], [4.0]])).T
      Array([[1., 4.]], dtype=float32)
    """

    blocks: Float[Array, "*b a p q"]

    @classmethod
    def zeros(cls, m: int, rank: int, number: int, dtype: DTypeLike) -> "Blocks":
        """A basis of zeros (m, rank), for its shapes."""
        return cls(jnp.zeros((number, m // number, rank // number), dtype))

    @property
    def rank(self) -> int:
        """r."""
        *_, number, _, columns = self.blocks.shape
        return number * columns

    def project(self, grad: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """S^T G, block by block."""
        return self._joined(self._dense.project(self._cut(grad)))

    def lift(self, direction: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """S D, block by block."""
        return self._joined(self._dense.lift(self._cut(direction)))

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g."""
        return self._joined(self._dense.remove(self._cut(grad), self._cut(projected), fraction))

    def rotation(self, old: "Blocks", like: Float[Array, "*b m n"]) -> "Blocks":
        """Q = S^T S_old, whose blocks are B_i^T B_old,i."""
        return Blocks(self._dense.rotation(Dense(old.blocks), self._cut(like)))

    def squared(self) -> "Blocks":
        """The squares of the entries."""
        return Blocks(jnp.square(self.blocks))

    def to_matrix(self) -> Float[Array, "*b m r"]:
        """S, with its zeros."""
        *batch, number, rows, columns = self.blocks.shape
        placed = jnp.einsum("...apq,ab->...apbq", self.blocks, jnp.eye(number, dtype=self.blocks.dtype))
        return placed.reshape(*batch, number * rows, number * columns)

    @property
    def _dense(self) -> Dense:
        """The blocks as a stack of dense bases."""
        return Dense(self.blocks)

    def _cut(self, x: Float[Array, "*b k n"]) -> Float[Array, "*b a l n"]:
        *batch, rows, n = x.shape
        number = self.blocks.shape[-3]
        return x.reshape(*batch, number, rows // number, n)

    def _joined(self, x: Float[Array, "*b a l n"]) -> Float[Array, "*b k n"]:
        *batch, number, rows, n = x.shape
        return x.reshape(*batch, number * rows, n)


def number_of_blocks(m: int, rank: int, width: int = WIDTH) -> int:
    """The most blocks of equal size whose width r/a is at least `width`; one if there are none.

    Args:
      m, rank: the shape of the basis.
      width: the fewest columns of a block.

    Returns:
      a, a divisor of m and of r.

    Examples:
      >>> bases.number_of_blocks(2048, 512), bases.number_of_blocks(2048, 512, width=128)
      (16, 4)
      >>> bases.number_of_blocks(127, 64)  # no common divisor
      1
    """
    common = math.gcd(m, rank)
    return max((a for a in range(1, common + 1) if common % a == 0 and rank // a >= width), default=1)
