"""LoRA (Hu et al. 2021) as a transformation of gradients, to compare with.

A kernel W is W_0 + scale A B, of which A and B are trained. With the gradient G of W, those of the
factors are scale G B^T and scale A^T G; the update of W is what the new factors change. So the
weights of a checkpoint are the merged ones, and the factors are part of the optimizer's state. With
weights of 16 bits, each update is rounded.
"""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Factors(NamedTuple):
    """The factors of a kernel (..., m, n)."""

    a: Array  # (..., m, r)
    b: Array  # (..., r, n)


class LoraState(NamedTuple):
    """The factors of each kernel, and the state of the optimizer that trains them."""

    factors: Any
    inner: optax.OptState


def lora(inner: optax.GradientTransformation, *, rank: int, scale: float, seed: int) -> optax.GradientTransformation:
    """Return the update of kernels whose factors are trained by `inner`.

    Args:
      inner: A complete optimizer.
      rank: Columns of A.
      scale: Factor of A B; alpha / r of the paper.
      seed: Of the first A, uniform in [-1 / sqrt(m), 1 / sqrt(m)] as in PEFT. The first B is 0.
    """

    def first(path: Any, kernel: Array) -> Factors:
        *batch, m, n = kernel.shape
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        key = jax.random.fold_in(jax.random.key(seed), _number(name))
        a = jax.random.uniform(key, (*batch, m, rank), jnp.float32, -(m**-0.5), m**-0.5)
        return Factors(a, jnp.zeros((*batch, rank, n), jnp.float32))

    def init(params: optax.Params) -> LoraState:
        factors = jax.tree.map_with_path(first, params)
        return LoraState(factors, inner.init(factors))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LoraState]:
        del params
        assert isinstance(state, LoraState)

        def of_factors(grad: Array, factors: Factors) -> Factors:
            grad = scale * grad.astype(jnp.float32)
            return Factors(grad @ factors.b.mT, factors.a.mT @ grad)

        def change(grad: Array, old: Factors, new: Factors) -> Array:
            return (scale * (new.a @ new.b - old.a @ old.b)).astype(grad.dtype)

        steps, inner_state = inner.update(jax.tree.map(of_factors, updates, state.factors), state.inner, state.factors)
        factors = optax.apply_updates(state.factors, steps)
        return jax.tree.map(change, updates, state.factors, factors), LoraState(factors, inner_state)

    return optax.GradientTransformation(init, update)


def _number(name: str) -> int:
    """A number of 31 bits for the name of a kernel, the same in every process."""
    return zlib.crc32(name.encode()) >> 1
