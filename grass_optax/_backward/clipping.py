"""Clipping by norm where no gradient is there as a whole."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import one_of
from grass_optax._linalg.dtypes import wide

Way = Literal["two_pass", "previous", "layer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Multiply gradients by min(1, max_norm / norm), for one of three norms.

    Attributes:
      max_norm: a positive number.
      by: "two_pass", the global norm, as `optax.clip_by_global_norm` has it: a first backward pass
        finds it and keeps no gradient, for 60 to 75 % more products. "previous", the global norm of
        the step before. "layer", for each layer its own norm, and for everything else that of
        everything else.
    """

    max_norm: float
    by: Way = "two_pass"

    def __post_init__(self) -> None:
        one_of("by", self.by, get_args(Way))
        if not 0 < self.max_norm < float("inf"):
            raise ValueError(f"max_norm is {self.max_norm}, but must be a positive number. Give one, or clip=None.")

    def factor(self, norm: Float[Array, ""]) -> Float[Array, ""]:
        """What to multiply gradients by; NaN for a norm that is NaN."""
        return jnp.where(norm < self.max_norm, 1, self.max_norm / norm).astype(norm.dtype)


def squares(grads: PyTree) -> Float[Array, ""]:
    """The sum of the squares of all entries, in the widest of their types and float32 at least."""
    dtype = wide(*(g.dtype for g in jax.tree.leaves(grads)))
    return sum((jnp.sum(jnp.square(g.astype(dtype))) for g in jax.tree.leaves(grads)), jnp.zeros((), dtype))


def scaled(grads: PyTree, factor: Float[Array, ""] | None) -> PyTree:
    """The gradients times a factor, in their own types."""
    return grads if factor is None else jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
