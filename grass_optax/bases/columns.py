"""A basis of coordinate axes: r columns of the identity.

Its products are gathers, and it is r + m integers. On a mesh they are multiplications instead: a
gather of rows that are sharded would exchange whole gradients. Signs of the columns would change
nothing: Adam moves a coordinate and its negative alike.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from grass_optax._linalg.dtypes import wide
from grass_optax._trees.mesh import is_mesh_free, whole_along
from grass_optax.bases.dense import Dense


class Columns(NamedTuple):
    """A map with at most a single 1 in each row and in each column, and zeros elsewhere.

    Attributes:
      rows: (..., r), int32: the row of each column's 1; m for a column of zeros.
      places: (..., m), int32: the column of each row's 1; r for a row of zeros.

    Examples:
      >>> basis = bases.Columns.of(jnp.array([2, 0]), m=3)
      >>> basis.to_matrix()
      Array([[0., 1.],
             [0., 0.],
             [1., 0.]], dtype=float32)
      >>> basis.project(jnp.array([[1.0], [2.0], [3.0]])).T
      Array([[3., 1.]], dtype=float32)
    """

    rows: Int[Array, "*b r"]
    places: Int[Array, "*b m"]

    @classmethod
    def of(cls, rows: Int[Array, " r"], m: int) -> "Columns":
        """The columns `rows` of the identity (m, m), all different; those from m on are zero."""
        rank = rows.shape[-1]
        numbers = jnp.arange(rank, dtype=jnp.int32)
        places = jnp.full(m, rank, jnp.int32).at[rows].set(numbers, mode="drop")
        return cls(rows.astype(jnp.int32), places)

    @property
    def rank(self) -> int:
        """r."""
        return self.rows.shape[-1]

    def project(self, grad: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """S^T G: rows of G."""
        if not is_mesh_free(grad):
            return self._dense(grad.dtype).project(grad.astype(wide(grad.dtype)))
        return _rows_of(grad, self.rows)

    def lift(self, direction: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """S D: rows of D, and zeros."""
        if not is_mesh_free(direction):
            return self._dense(direction.dtype).lift(direction)
        return _rows_of(direction, self.places)

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g: exactly zero in the rows of the basis if the fraction is 1."""
        grad = grad.astype(projected.dtype)
        is_chosen = (self.places < self.rank)[..., None]
        return jnp.where(is_chosen, 1 - jnp.asarray(fraction, grad.dtype), 1) * grad

    def rotation(self, old: "Columns", like: Float[Array, "*b m n"]) -> "Columns":
        """Q = S^T S_old: a 1 where a column of both is the same."""
        new_rows, old_rows = (whole_along(basis.rows, (-1,), like) for basis in (self, old))
        return Columns(
            rows=_taken(self.places, old_rows, self.rank),
            places=_taken(old.places, new_rows, old.rank),
        )

    def squared(self) -> "Columns":
        """The squares of the entries, which are 0 and 1."""
        return self

    def to_matrix(self) -> Float[Array, "*b m r"]:
        """S, with its zeros."""
        return self._dense(jnp.result_type(float)).matrix

    def _dense(self, dtype: DTypeLike) -> Dense:
        return Dense(jax.nn.one_hot(self.places, self.rank, dtype=wide(dtype)))


def _rows_of(x: Float[Array, "*b k n"], indices: Int[Array, "*b l"]) -> Float[Array, "*b l n"]:
    """Rows of a matrix; zeros for an index beyond them."""
    taken = jnp.take_along_axis(x, indices[..., None], axis=-2, mode="fill", fill_value=0)
    return taken.astype(wide(x.dtype))


def _taken(x: Int[Array, "*b k"], indices: Int[Array, "*b l"], absent: int) -> Int[Array, "*b l"]:
    return jnp.take_along_axis(x, indices, axis=-1, mode="fill", fill_value=absent)
