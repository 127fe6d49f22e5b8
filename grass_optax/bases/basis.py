"""What a basis is: a linear map from r coordinates to m, and what a split asks of it.

An array (..., m, r) is a basis too, the dense one. A basis has no axis for n: it acts on each
column of a matrix in the same way.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from grass_optax.bases.dense import Dense


@runtime_checkable
class Basis(Protocol):
    """A linear map S (..., m, r): a pytree whose arrays have the batch axes of its leaf first."""

    @property
    def rank(self) -> int:
        """r."""

    def project(self, grad: Float[Array, "*b m n"], /) -> Float[Array, "*b r n"]:
        """S^T G, in float32 at least."""

    def lift(self, direction: Float[Array, "*b r n"], /) -> Float[Array, "*b m n"]:
        """S D, in float32 at least."""

    def remove(
        self, grad: Float[Array, "*b m n"], projected: Float[Array, "*b r n"], fraction: ArrayLike, /
    ) -> Float[Array, "*b m n"]:
        """G - fraction S g, where g = S^T G."""

    def rotation(self, old: Self, like: Float[Array, "*b m n"], /) -> Any:
        """Q = S^T S_old (..., r, r), which takes coordinates in the old basis to this one: an array
        or a basis. On a mesh it is replicated over the axes that shard `like`.
        """

    def squared(self) -> Self:
        """The map whose entries are the squares of those of this one."""

    def to_matrix(self) -> Float[Array, "*b m r"]:
        """The entries of S."""


BasisLike: TypeAlias = PyTree  # an array or a Basis


def as_basis(basis: BasisLike) -> Basis:
    """Return what answers the questions of `Basis`: an array is a dense basis.

    Args:
      basis: an array (..., m, r), or one of the bases of this package.

    Returns:
      A `Basis`.

    Examples:
      >>> bases.as_basis(jnp.eye(2, 1)).lift(jnp.array([[1.0, 2.0]]))
      Array([[1., 2.],
             [0., 0.]], dtype=float32)
    """
    return basis if isinstance(basis, Basis) else Dense(basis)


def of_stack(f: Callable[..., Array], map_stacks: bool, basis: BasisLike, *factors: Array) -> Array:
    """f(basis, factors): of all matrices of a stack together, or of one after the other.

    On a mesh that shards m, every device holds the whole sum S^T G until it is scattered, and the
    whole D after it is gathered; in a loop over the first axis it holds those of one matrix at a
    time. That axis must not be sharded itself, and the devices must not be CPUs
    (docs/guides/sharding.md, "Stacks").
    """
    if map_stacks and factors[0].ndim > 2:
        return jnp.asarray(lax.map(lambda of_one: f(as_basis(of_one[0]), *of_one[1]), (basis, factors)))
    return f(as_basis(basis), *factors)
