"""A basis of sums over blocks of neighbouring rows: it folds a matrix.

Row i is in one of r blocks; those of c_j rows make column j of S, which has no numbers to store::

  S_ij = 1 / sqrt(c_j) if row i is in block j, else 0

S^T G has the sums of the blocks over sqrt(c_j), and S S^T G their means. For blocks of 2^l rows the
former are the approximation coefficients of the orthonormal Haar transform at level l, and
G - S S^T G is its details.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import wide
from grass_optax._trees.mesh import is_mesh_free
from grass_optax.bases.dense import Dense


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Fold:
    """Rows in r blocks, each of m/r neighbours. If r does not divide m, the first have one more.

    As a pytree it is static and has no arrays. It is the same for all matrices of a stack.

    Attributes:
      m: the number of rows.
      rank: r, the number of blocks, at most m.
      power: S has entries c^(-power/2): 1 for an orthonormal basis, and 2 for its squares.

    Examples:
      >>> basis = bases.Fold(m=5, rank=2)
      >>> basis.to_matrix().T.round(3)
      Array([[0.577, 0.577, 0.577, 0.   , 0.   ],
             [0.   , 0.   , 0.   , 0.707, 0.707]], dtype=float32)
      >>> basis.sums(jnp.arange(5.0)[:, None]).T
      Array([[3., 7.]], dtype=float32)
    """

    m: int
    rank: int
    power: int = 1

    def sums(self, x: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """The sum of each block of rows, in float32 at least."""
        x = x.astype(wide(x.dtype))
        if self._crosses_devices(x):
            with jax.default_matmul_precision("highest"):
                return self._rows_of_blocks(x).project(x)
        return _joined([jnp.sum(part, axis=-2) for part in self._cut(x)])

    def spread(self, x: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """The matrix whose rows are those of their blocks in x."""
        if self._crosses_devices(x):
            with jax.default_matmul_precision("highest"):
                return self._rows_of_blocks(x).lift(x)
        shorter, more = divmod(self.m, self.rank)
        parts = [(x[..., :more, :], shorter + 1), (x[..., more:, :], shorter)]
        return _joined([jnp.repeat(part, rows, axis=-2) for part, rows in parts if part.shape[-2]])

    def project(self, grad: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """S^T G."""
        return self._over_roots(self.sums(grad))

    def lift(self, direction: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """S D."""
        return self.spread(self._over_roots(direction.astype(wide(direction.dtype))))

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g."""
        inside = self.lift(jnp.asarray(fraction, projected.dtype) * projected)
        return grad.astype(inside.dtype) - inside

    def rotation(self, old: "Fold", like: Float[Array, "*b m n"]) -> "Fold":
        """Q = I: a matrix has only one fold of its rank."""
        del old, like
        return Fold(self.rank, self.rank)

    def squared(self) -> "Fold":
        """The squares of the entries."""
        return Fold(self.m, self.rank, 2 * self.power)

    def to_matrix(self) -> Float[Array, "m r"]:
        """S, with its zeros."""
        return self.lift(jnp.eye(self.rank))

    def _crosses_devices(self, x: Float[Array, "*b _ n"]) -> bool:
        """Whether a block may have rows on two devices of a mesh, which cutting rows into blocks
        would gather.
        """
        devices = jax.typeof(x).sharding.mesh.size
        return not is_mesh_free(x) and (self.m % self.rank != 0 or self.rank % devices != 0)

    def _rows_of_blocks(self, x: Float[Array, "*b _ n"]) -> Dense:
        """The map with a 1 where a row is in a block, for each matrix of x."""
        block_of_row = np.repeat(np.arange(self.rank), self._rows())
        ones = jax.nn.one_hot(block_of_row, self.rank, dtype=wide(x.dtype))
        return Dense(jnp.broadcast_to(ones, (*x.shape[:-2], *ones.shape)))

    def _rows(self) -> np.ndarray:
        """c, the rows of each block."""
        shorter, more = divmod(self.m, self.rank)
        return shorter + (np.arange(self.rank) < more)

    def _over_roots(self, x: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
        """Each row over c^(power/2) of its block."""
        shorter, more = divmod(self.m, self.rank)
        if not more:
            return x / shorter ** (self.power / 2)
        roots = self._rows()[:, None] ** (self.power / 2)
        return x / jnp.broadcast_to(jnp.asarray(roots, x.dtype), x.shape)

    def _cut(self, x: Float[Array, "*b m n"]) -> list[Float[Array, "*b k c n"]]:
        """The rows of each block, of the longer blocks and of the others."""
        *batch, _, n = x.shape
        shorter, more = divmod(self.m, self.rank)
        longer = more * (shorter + 1)
        parts = [(x[..., :longer, :], more), (x[..., longer:, :], self.rank - more)]
        return [part.reshape(*batch, blocks, -1, n) for part, blocks in parts if blocks]


def _joined(parts: list[Float[Array, "*b _ n"]]) -> Float[Array, "*b _ n"]:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-2)
