"""A rule for each block of rows, instead of one for the whole matrix."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from grass_optax._checks import positive
from grass_optax.bases import Blocks, number_of_blocks
from grass_optax.subspaces.rule import Refresh, SubspaceRule


def by_blocks(rule: SubspaceRule, blocks: int | None = None) -> SubspaceRule:
    """Cut the rows of a matrix into blocks, and give each a subspace of its own.

    With `a` blocks of m/a rows, `rule` makes the basis B_i (m/a, r/a) of each from its rows of the
    gradient::

      S = blockdiag(B_1, .., B_a)

    Args:
      rule: a rule whose bases are arrays. Of the inner state it reads the rows of its block.
      blocks: a, a divisor of m and r; None is `bases.number_of_blocks`.

    Returns:
      A rule whose S is a `bases.Blocks`, with the states of all blocks.

    Raises:
      ValueError: when initialised, a number of blocks that does not divide m and r, or a rule whose
        bases are no arrays.

    Examples:
      The largest direction of the first two rows, and that of the last two:

      >>> grad = jnp.diag(jnp.array([1.0, 2.0, 4.0, 3.0]))
      >>> rule = subspaces.by_blocks(subspaces.svd(), 2)
      >>> old = rule.form((4, 2), jnp.float32)
      >>> step = subspaces.Refresh(
      ...     jax.random.key(0), jnp.int32(0), grad, old, None, rule.init((4, 2), jnp.float32)
      ... )
      >>> jnp.abs(rule.update(step)[0].to_matrix()).T
      Array([[0., 1., 0., 0.],
             [0., 0., 1., 0.]], dtype=float32)
    """
    if blocks is not None:
        blocks = positive("blocks", blocks)

    def block_shape(basis_shape: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        m, rank = basis_shape
        number = number_of_blocks(m, rank) if blocks is None else blocks
        if m % number or rank % number:
            raise ValueError(
                f"blocks is {number}, but a basis of {m} x {rank} cannot be cut into {number} blocks of one size. Give "
                f"a divisor of {math.gcd(m, rank)}, or None."
            )
        return number, (m // number, rank // number)

    def form(basis_shape: tuple[int, int], dtype: Any) -> Blocks:
        number, shape = block_shape(basis_shape)
        of_one = rule.form(shape, dtype)
        if not isinstance(of_one, jax.Array):
            raise ValueError(f"the rule makes bases {of_one}, which are no blocks of a matrix. Give a rule of arrays.")
        return Blocks(jnp.broadcast_to(of_one, (number, *shape)))

    def init(basis_shape: tuple[int, int], dtype: Any) -> PyTree:
        number, shape = block_shape(basis_shape)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), rule.init(shape, dtype))

    def update(refresh: Refresh) -> tuple[Blocks, PyTree]:
        number = refresh.basis.blocks.shape[0]

        def cut(x: Array) -> Array:
            """The rows of each block, of an array with an axis m or r; others go to every block."""
            if jnp.ndim(x) == 2 and jnp.shape(x)[0] in (refresh.grad.shape[0], refresh.basis.rank):
                return x.reshape(number, -1, x.shape[1])
            return jnp.broadcast_to(x, (number, *jnp.shape(x)))

        def of_block(key: Array, grad: Any, basis: Array, moments: PyTree, state: PyTree) -> Any:
            own = refresh._replace(key=key, grad=grad, basis=basis, inner_state=moments, rule_state=state)
            return rule.update(own)

        keys = jax.vmap(jax.random.fold_in, (None, 0))(refresh.key, jnp.arange(number))
        grads, moments = jax.tree.map(cut, (refresh.grad, refresh.inner_state))
        basis, state = jax.vmap(of_block)(keys, grads, refresh.basis.blocks, moments, refresh.rule_state)
        return Blocks(basis), state

    return dataclasses.replace(rule, init=init, update=update, form=form)
