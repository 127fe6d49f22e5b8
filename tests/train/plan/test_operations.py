"""Operations of products, counted by hand."""

import jax
import jax.numpy as jnp
from jax import Array

from train.plan.operations import product_operations

A, B = jnp.ones((2, 3)), jnp.ones((3, 3))
ONCE = 2 * 2 * 3 * 3  # a sum and a product for each of 3 terms of 2 x 3 numbers


def operations(function: object) -> int:
    return product_operations(jax.make_jaxpr(function)(A, B).jaxpr)  # type: ignore[arg-type]


def test_the_body_of_a_scan_counts_once_for_each_iteration() -> None:
    def five(a: Array, b: Array) -> Array:
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ b), None), a, length=5)[0]

    assert operations(lambda a, b: a @ b) == ONCE
    assert operations(five) == 5 * ONCE
    assert operations(jax.jit(five)) == 5 * ONCE
    # The backward pass has two products, neither of which is needed for an argument alone.
    assert operations(jax.grad(lambda a, b: five(a, b).sum(), argnums=(0, 1))) == 15 * ONCE
    # Recomputation repeats the forward pass.
    again = jax.checkpoint(lambda x, b: jnp.tanh(x @ b))

    def recomputed(a: Array, b: Array) -> Array:
        return jax.lax.scan(lambda x, _: (again(x, b), None), a, length=5)[0].sum()

    assert operations(jax.grad(recomputed, argnums=(0, 1))) == 20 * ONCE


def test_batched_products_count_for_each_matrix() -> None:
    assert operations(lambda a, b: jnp.stack([a, a]) @ jnp.stack([b, b])) == 2 * ONCE


def test_the_dearest_branch_counts_and_a_loop_of_unknown_length_does_not() -> None:
    def branches(a: Array, b: Array) -> Array:
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b)

    def loop(a: Array, b: Array) -> Array:
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ b, a)

    assert operations(branches) == 2 * ONCE
    assert operations(loop) == 0
