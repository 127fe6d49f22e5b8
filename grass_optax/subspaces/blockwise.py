"""A rule for each block of rows, instead of one for the whole matrix."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from grass_optax._checks import positive
from grass_optax.bases import Blocks, Dense, as_basis, number_of_blocks
from grass_optax.subspaces.rule import Refresh, SubspaceRule


def by_blocks(rule: SubspaceRule, blocks: int | None = None) -> SubspaceRule:
    """Cut the rows of a matrix into blocks, and give each its own subspace.

    With `a` blocks of m/a rows, `rule` makes the basis B_i (m/a, r/a) of each from its rows of the
    gradient::

      S = blockdiag(B_1, .., B_a)

    Args:
      rule: a rule whose bases are arrays. For each block it sees that block's rows of the moments
        (r, n); other arrays of the inner state it sees whole.
      blocks: a, a divisor of m and r; None is `bases.number_of_blocks`.

    Returns:
      A rule whose S is a `bases.Blocks`, with the states of all blocks.

    Raises:
      ValueError: at once, if `blocks` is not positive; at initialisation, if it does not divide m
        and r, or if the rule's bases are not arrays.

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
    number = None if blocks is None else positive("blocks", blocks)

    def form(basis_shape: tuple[int, int], dtype: Any) -> Blocks:
        count, shape = _cut_shape(basis_shape, number)
        of_block = rule.form(shape, dtype)
        if not isinstance(as_basis(of_block), Dense):
            raise ValueError(
                f"the bases of this rule are {type(of_block).__name__}, but by_blocks needs arrays. Give a rule such "
                "as random_jump() or svd()."
            )
        return Blocks(jnp.broadcast_to(of_block, (count, *shape)))

    def init(basis_shape: tuple[int, int], dtype: Any) -> PyTree:
        count, shape = _cut_shape(basis_shape, number)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), rule.init(shape, dtype))

    def update(refresh: Refresh) -> tuple[Blocks, PyTree]:
        def of_block(key: Array, grad: Any, basis: Array, moments: PyTree, state: PyTree) -> Any:
            own = refresh._replace(key=key, grad=grad, basis=basis, inner_state=moments, rule_state=state)
            return rule.update(own)

        basis, state = jax.vmap(of_block)(*_cut(refresh), refresh.rule_state)
        return Blocks(basis), state

    return dataclasses.replace(rule, init=init, update=update, form=form)


def _cut_shape(basis_shape: tuple[int, int], blocks: int | None) -> tuple[int, tuple[int, int]]:
    """The number of blocks of a basis, and the shape of each."""
    m, rank = basis_shape
    number = number_of_blocks(m, rank) if blocks is None else blocks
    if m % number or rank % number:
        raise ValueError(
            f"blocks is {number}, but a basis of {m} x {rank} cannot be cut into {number} blocks of one size. Give a "
            f"divisor of {math.gcd(m, rank)}, or None."
        )
    return number, (m // number, rank // number)


def _cut(refresh: Refresh) -> tuple[Array, Array | None, Array, PyTree]:
    """Key, gradient, basis and inner state of each block, stacked."""
    blocks = refresh.basis.blocks
    number, rank = blocks.shape[0], refresh.basis.rank
    grad: Array | None = refresh.grad  # rules that only read the key may be tried without one

    def rows(x: Array) -> Array:
        return x.reshape(number, -1, x.shape[-1])

    def of_each(x: Array) -> Array:
        is_moment = grad is not None and jnp.shape(x) == (rank, grad.shape[-1])
        return rows(x) if is_moment else jnp.broadcast_to(x, (number, *jnp.shape(x)))

    keys = jax.vmap(jax.random.fold_in, (None, 0))(refresh.key, jnp.arange(number))
    return keys, None if grad is None else rows(grad), blocks, jax.tree.map(of_each, refresh.inner_state)
