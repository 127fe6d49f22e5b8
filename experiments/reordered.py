"""A basis that sees the rows of a matrix in another order: whether blocks should be consecutive."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from grass_optax import subspaces
from grass_optax.bases import Blocks


class Reordered(NamedTuple):
    """S = P^T B, with a permutation P of the rows and a block-diagonal basis B.

    Attributes:
      blocks: B.
      order: (..., m), int32: row i of P G is row order_i of G.
    """

    blocks: Blocks
    order: Int[Array, "*b m"]

    @property
    def rank(self) -> int:
        """r."""
        return self.blocks.rank

    def project(self, grad: Float[Array, "*b m n"]) -> Float[Array, "*b r n"]:
        """S^T G = B^T P G."""
        return self.blocks.project(jnp.take_along_axis(grad, self.order[..., None], axis=-2))

    def lift(self, direction: Float[Array, "*b r n"]) -> Float[Array, "*b m n"]:
        """S D = P^T B D."""
        lifted = self.blocks.lift(direction)
        return jnp.take_along_axis(lifted, jnp.argsort(self.order)[..., None], axis=-2)

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g."""
        return grad - jnp.asarray(fraction, grad.dtype) * self.lift(projected)

    def rotation(self, old: "Reordered", like: Float[Array, "*b m n"]) -> Blocks:
        """Q, for an old basis of the same order."""
        return self.blocks.rotation(old.blocks, like)

    def squared(self) -> "Reordered":
        """The squares of the entries."""
        return Reordered(self.blocks.squared(), self.order)

    def to_matrix(self) -> Float[Array, "*b m r"]:
        """S."""
        return jnp.take_along_axis(self.blocks.to_matrix(), jnp.argsort(self.order)[..., None], axis=-2)


def strided(number: int) -> subspaces.SubspaceRule:
    """A random jump in blocks of every `number`-th row."""
    jump = subspaces.random_jump("blocks", number)

    def form(basis_shape: tuple[int, int], dtype: Any) -> Reordered:
        m, _ = basis_shape
        order = jnp.arange(m, dtype=jnp.int32).reshape(-1, number).T.reshape(-1)
        return Reordered(jump.form(basis_shape, dtype), order)

    def draw(refresh: subspaces.Refresh) -> Reordered:
        old = refresh.basis
        blocks, _ = jump.update(refresh._replace(basis=old.blocks))
        return Reordered(blocks, old.order)

    return subspaces.stateless_rule(draw, form=form, keyed=True)
