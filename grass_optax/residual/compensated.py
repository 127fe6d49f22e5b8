"""The residual over an average of its columns' norms (Alice)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from grass_optax._inner.transforms import averaged, scaled_by
from grass_optax._linalg.norms import sum_of_squares
from grass_optax.residual.limit import with_limit
from grass_optax.residual.marks import Residual, map_present, per_column, split_of


class ColumnEnergyState(NamedTuple):
    """State of `compensation`.

    Attributes:
      energy: (..., 1, n) per leaf: p, the average of each column's squared norm.
    """

    energy: PyTree


def compensation(b1: ArrayLike, max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """Divide each column of the residual by the root of its average squared norm (Alice).

    In the paper these factors are the best diagonal approximation of the Fisher information outside
    the subspace. The limit is applied before the scale::

      p_i <- b1 p_i + (1 - b1) ||R_i||^2
      L_i = scale sqrt(m - r) R_i / sqrt(p_i),   ||L_t|| <= zeta ||L_{t-1}||

    Args:
      b1: the decay rate of the average, which starts at 0 and has no hat.
      max_norm_growth: zeta of `norm_growth_limit`; None switches the limit off.
      scale: multiplies the result.

    Returns:
      A `Residual` marked `per_column`; its output L is (..., m, n), its state n + 2 numbers for
      each matrix, or n.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.scale_by_sign(), transport.keep(),
      ...     residual.compensation(b1=0.0), rank=1, update_proj_gap=100,
      ... )
      >>> grad = jnp.array([[2.0, 4.0], [1.0, -8.0]])
      >>> tx.update(grad, tx.init(grad))[0]
      Array([[ 1.,  1.],
             [ 1., -1.]], dtype=float32)

    References:
      Gong et al., `Alice <https://arxiv.org/abs/2502.07752>`_, 2025
    """
    return per_column(optax.chain(with_limit(_over_averages(b1), max_norm_growth), scaled_by(scale)))


def _over_averages(b1: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """sqrt(m - r) R_i / sqrt(p_i)."""

    def init(params: optax.Params) -> ColumnEnergyState:
        return ColumnEnergyState(jax.tree.map(lambda x: jnp.zeros((*x.shape[:-2], 1, x.shape[-1]), x.dtype), params))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params
        split = split_of(extra_args)

        def energy(outside: Array, old: Array) -> Array:
            return averaged(sum_of_squares(outside), old, b1)

        def divided(outside: Array, energy: Array, grad: Array, projected: Array) -> Array:
            freedom = grad.shape[-2] - projected.shape[-2]
            is_empty = energy == 0
            return jnp.where(is_empty, 0, freedom**0.5 * outside / jnp.sqrt(jnp.where(is_empty, 1, energy)))

        state = ColumnEnergyState(map_present(energy, updates, state.energy))
        return map_present(divided, updates, state.energy, split.grad, split.projected), state

    return optax.GradientTransformationExtraArgs(init, update)
