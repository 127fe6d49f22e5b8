"""Inner optimizers that Optax does not have.

Members: orthogonalize.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from grass_optax import grassmann
from grass_optax.checks import one_of

ORTHOGONALIZATIONS = ("exact", "newton_schulz")
# Muon's quintic polynomial and number of steps (Jordan, 2024): singular values end between 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 5


def orthogonalize(method: str = "exact") -> optax.GradientTransformation:
    """Each matrix (..., r, n), r <= n, by its polar factor: A Sigma B^T becomes A B^T (SUMO, Muon).

    "exact" is that to rounding, where singular values are above 1e-8 of the largest; "newton_schulz" are Muon's five
    steps, after which all lie between 0.7 and 1.2. Both in matrix products only; zero stays zero.
    """
    of = _exact if one_of("orthogonalization", method, ORTHOGONALIZATIONS) == "exact" else _quintic

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda x: of(x.astype(grassmann.wide(x.dtype))).astype(x.dtype), updates)

    return optax.stateless(update)


def _exact(x: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    return grassmann.transpose(grassmann.orthonormalize(grassmann.transpose(grassmann.scaled_to_one(x))))


def _quintic(x: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    x = grassmann.scaled_to_one(x)
    size = jnp.sum(x * x, axis=(-2, -1), keepdims=True) ** 0.5
    x = x / jnp.where(size > 0, size, 1)
    a, b, c = _QUINTIC
    for _ in range(_QUINTIC_STEPS):
        gram = grassmann.matmul(x, grassmann.transpose(x))
        x = a * x + grassmann.matmul(b * gram + c * grassmann.matmul(gram, gram), x)
    return x
