"""A basis of discrete cosine waves, with or without a random sign of each coordinate.

With D the orthonormal DCT-II, k the frequency of each column and s the sign of each row::

  S_ij = s_i D_i,k(j),  D_ik = sqrt(2/m) cos(pi (2i + 1) k / 2m),  frequency 0 over sqrt(2)

It is r + m small integers. Its entries are looked up in a table of 4m cosines, when they are
needed.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from grass_optax._linalg.dtypes import wide
from grass_optax.bases.dense import Dense


class Cosine(NamedTuple):
    """Columns of the discrete cosine transform.

    Attributes:
      waves: (..., r), int32: the frequency of each column, from 0 to m - 1.
      signs: (..., m), int8: the sign of each row, 1 or -1.

    Examples:
      >>> basis = bases.Cosine(jnp.array([0]), jnp.array([1, -1, 1, -1], jnp.int8))
      >>> basis.to_matrix().T.round(3)
      Array([[ 0.5, -0.5,  0.5, -0.5]], dtype=float32)
    """

    waves: Int[Array, "*b r"]
    signs: Int[Array, "*b m"]

    @classmethod
    def of(cls, waves: Int[Array, " r"], m: int) -> "Cosine":
        """These waves of length m, without signs.

        Raises:
          ValueError: m is above 2^15, where phases overflow.
        """
        if m > 2**15:
            raise ValueError(f"waves of length {m} are longer than 2^15. Give another basis for this leaf.")
        return cls(waves.astype(jnp.int32), jnp.ones(m, jnp.int8))

    @property
    def rank(self) -> int:
        """r."""
        return self.waves.shape[-1]

    def project(self, grad: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """S^T G."""
        return self._dense(grad.dtype).project(grad.astype(wide(grad.dtype)))

    def lift(self, direction: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """S D."""
        return self._dense(direction.dtype).lift(direction)

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g."""
        return self._dense(projected.dtype).remove(grad, projected, fraction)

    def rotation(self, old: "Cosine", like: Float[Array, "*b m n"]) -> Float[Array, "*b r r"]:
        """Q = S^T S_old."""
        return self._dense(like.dtype).rotation(old._dense(like.dtype), like)

    def squared(self) -> Dense:
        """The squares of the entries."""
        return self._dense(jnp.result_type(float)).squared()

    def to_matrix(self) -> Float[Array, "*b m r"]:
        """S."""
        return self._dense(jnp.result_type(float)).matrix

    def _dense(self, dtype: DTypeLike) -> Dense:
        dtype = wide(dtype)
        waves = cosine_waves(self.waves, self.signs.shape[-1], dtype)
        return Dense(self.signs[..., None].astype(dtype) * waves)


def cosine_waves(frequencies: Int[Array, "*b r"], m: int, dtype: DTypeLike) -> Float[Array, "*b m r"]:
    """Columns of the orthonormal DCT-II of length m.

    The phase is reduced as an integer: as a float it would lose the digits of a large m.
    """
    frequencies = frequencies[..., None, :]
    rows = lax.broadcasted_iota(jnp.int32, (*frequencies.shape[:-2], m, 1), frequencies.ndim - 2)
    phase = ((2 * rows + 1) * frequencies) % (4 * m)
    table = jnp.cos((math.pi / (2 * m)) * jnp.arange(4 * m, dtype=dtype)) * (2 / m) ** 0.5
    return jnp.where(frequencies == 0, jnp.asarray(0.5**0.5, dtype), jnp.asarray(1, dtype)) * table[phase]
