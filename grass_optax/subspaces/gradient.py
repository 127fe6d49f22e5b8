"""Rules that make a basis from the gradient alone, whatever the old one is.

If the gradient is not finite, the basis stays as it is; a first basis is then random.
"""

from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from grass_optax._checks import one_of, positive
from grass_optax._linalg.dtypes import wide
from grass_optax._linalg.products import project
from grass_optax._linalg.spectral import leading_left_singular_vectors, range_basis
from grass_optax.bases import BasisLike, Cosine
from grass_optax.bases.cosine import cosine_waves
from grass_optax.subspaces.rule import Refresh, SubspaceRule, finite_or_noise, kept_unless_finite, stateless_rule

SVD = Literal["exact", "randomized"]


def svd(method: SVD = "exact") -> SubspaceRule:
    """The leading left singular vectors of the gradient (GaLore).

    Args:
      method: "exact" factorises a matrix, which is an error on a CPU mesh before jaxlib 0.11;
        "randomized" is the `range_finder`. Another is a ValueError.

    Returns:
      A rule without state; its S (m, r) is orthonormal.

    Examples:
      >>> at = subspaces.Refresh(jax.random.key(0), 0, jnp.ones((2, 3)), jnp.eye(2, 1), None, None)
      >>> jnp.abs(subspaces.svd().update(at)[0].T).round(4)
      Array([[0.7071, 0.7071]], dtype=float32)

    References:
      Zhao et al., `GaLore <https://arxiv.org/abs/2403.03507>`_, 2024
    """
    if one_of("svd", method, get_args(SVD)) == "randomized":
        return range_finder()

    def leading(refresh: Refresh) -> Float[Array, "m r"]:
        grad = finite_or_noise(refresh).astype(refresh.basis.dtype)
        new = leading_left_singular_vectors(grad, refresh.basis.shape[-1])
        return kept_unless_finite(refresh, new)

    return stateless_rule(leading)


def range_finder(power_steps: int = 2) -> SubspaceRule:
    """A basis near the leading left singular vectors, by subspace iteration in products only.

    Captured energy against the exact SVD, 512 x 1376 at rank 128: .997/.998 for singular values
    1/k, .884/.893 for k^(-1/2). A gradient of zero gives a random basis.

    Args:
      power_steps: the number of subspace iterations.

    Returns:
      A rule without state; its S (m, r) is orthonormal.

    Examples:
      >>> at = subspaces.Refresh(jax.random.key(0), 0, jnp.ones((2, 3)), jnp.eye(2, 1), None, None)
      >>> jnp.abs(subspaces.range_finder().update(at)[0].T).round(4)
      Array([[0.7071, 0.7071]], dtype=float32)

    References:
      Halko et al., `Finding Structure with Randomness <https://arxiv.org/abs/0909.4061>`_, 2011
    """

    power_steps = positive("power_steps", power_steps)

    def find(refresh: Refresh) -> Float[Array, "m r"]:
        grad, rank = refresh.grad.astype(refresh.basis.dtype), refresh.basis.shape[-1]
        return kept_unless_finite(refresh, range_basis(refresh.key, grad, rank, power_steps))

    return stateless_rule(find)


def dct() -> SubspaceRule:
    """The r vectors of the discrete cosine transform with most energy (Trion, DCT-AdamW).

    S holds the columns of D with most energy, near the singular vectors where weights are smooth::

      D_ik = sqrt(2/m) cos(pi (2i + 1) k / 2m),  the first column over sqrt(2)

    Returns:
      A rule without state; its S (m, r) is a `bases.Cosine`, orthonormal.

    Examples:
      >>> rule = subspaces.dct()
      >>> old = rule.form((4, 1), jnp.float32)
      >>> at = subspaces.Refresh(jax.random.key(0), 0, jnp.ones((4, 6)), old, None, None)
      >>> rule.update(at)[0].to_matrix().T.round(4)
      Array([[0.5, 0.5, 0.5, 0.5]], dtype=float32)
    """

    def choose(refresh: Refresh) -> BasisLike:
        grad = finite_or_noise(refresh).astype(wide(refresh.grad.dtype))
        m, rank = grad.shape[0], refresh.basis.rank
        coefficients = project(cosine_waves(jnp.arange(m, dtype=jnp.int32), m, grad.dtype), grad)
        waves = jnp.argsort(-jnp.sum(jnp.square(coefficients), axis=-1))[:rank]
        return kept_unless_finite(refresh, Cosine.of(waves, m))

    return stateless_rule(choose, form=first_waves)


def first_waves(basis_shape: tuple[int, int], dtype: Any) -> Cosine:
    """A basis of cosine waves, for its form."""
    del dtype
    m, rank = basis_shape
    return Cosine.of(jnp.arange(rank), m)
