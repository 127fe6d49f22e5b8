"""Residuals that multiply columns or entries by numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._inner.transforms import scaled_by
from grass_optax._linalg.norms import column_norms, frobenius_norm
from grass_optax.residual.limit import with_limit
from grass_optax.residual.marks import Residual, map_present, marked, per_column, split_of

# A column whose projected gradient is this far below the root mean square over columns has none:
# its ratio would be noise.
_NEGLIGIBLE = 1e-6


def recovery(max_norm_growth: ArrayLike | None = 1.01, removed_fraction: ArrayLike = 1.0) -> Residual:
    """Recovery scaling, then the norm-growth limit (RS in the papers; Fira).

    With phi_i = ||N_i|| / ||g_i|| of each column i, N what the inner optimizer returned for g::

      L_i = phi_i R_i,   ||L_t|| <= zeta ||L_{t-1}||

    Args:
      max_norm_growth: zeta of `norm_growth_limit`; None switches the limit off.
      removed_fraction: c in R = G - c S S^T G: 1 in the papers, `scale` in Fira's released code.

    Returns:
      A `Residual` marked `per_column`; its output L is (..., m, n), its state a norm and a count
      per matrix.

    Raises:
      ValueError: at the first update, if a chain or a mask of it lost the mark and the residual is
        made with another fraction.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.scale_by_sign(), transport.keep(),
      ...     residual.recovery(), rank=1, update_proj_gap=100,
      ... )
      >>> grad = jnp.array([[2.0, 4.0], [1.0, 1.0]])
      >>> tx.update(grad, tx.init(grad))[0]  # the second row over the first
      Array([[1.  , 1.  ],
             [0.5 , 0.25]], dtype=float32)

    References:
      Chen et al., `Fira <https://arxiv.org/abs/2410.01623>`_, 2024
    """
    tx = with_limit(recovery_scaling(), max_norm_growth)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        _require_removed(split_of(extra_args).removed_fraction, removed_fraction)
        return tx.update(updates, state, params, **extra_args)

    limited = optax.GradientTransformationExtraArgs(tx.init, update)
    return marked(limited, per_column=True, removed_fraction=removed_fraction)


def channel_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """Scale each column of the gradient as the inner optimizer scaled its projection (APOLLO).

    Use it with `lift=False`, where the residual is the gradient itself. The limit is applied
    before the scale::

      L_i = sqrt(scale) (||N_i|| / ||g_i||) G_i

    Args:
      max_norm_growth: zeta of `norm_growth_limit`; None switches the limit off.
      scale: the square of the last factor.

    Returns:
      A `Residual` marked `per_column`; its output L is (..., m, n), its state a norm and a count
      per matrix.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.scale_by_sign(), transport.keep(),
      ...     residual.channel_scaling(scale=4.0), rank=1, update_proj_gap=100, lift=False,
      ... )
      >>> grad = jnp.array([[2.0, 4.0], [1.0, 1.0]])
      >>> tx.update(grad, tx.init(grad))[0]
      Array([[2. , 2. ],
             [1. , 0.5]], dtype=float32)

    References:
      Zhu et al., `APOLLO <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """
    return _scaled(recovery_scaling(), max_norm_growth, scale)


def tensor_scaling(max_norm_growth: ArrayLike | None = 1.01, scale: ArrayLike = 1.0) -> Residual:
    """Scale the whole gradient as the inner optimizer scaled its projection (APOLLO-Mini).

    Use it with `lift=False`. The limit is applied before the scale::

      L = sqrt(scale) (||N||_F / ||g||_F) G

    Args:
      max_norm_growth: zeta of `norm_growth_limit`; None switches the limit off.
      scale: the square of the last factor.

    Returns:
      A `Residual` marked `per_column`; its output L is (..., m, n), its state a norm and a count
      per matrix.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.scale_by_sign(), transport.keep(),
      ...     residual.tensor_scaling(), rank=1, update_proj_gap=100, lift=False,
      ... )
      >>> grad = jnp.array([[2.0, 2.0], [6.0, 1.0]])  # g has entries of 2, N of 1
      >>> tx.update(grad, tx.init(grad))[0]
      Array([[1. , 1. ],
             [3. , 0.5]], dtype=float32)

    References:
      Zhu et al., `APOLLO <https://arxiv.org/abs/2412.05270>`_, 2024, Algorithm 1
    """
    return _scaled(_multiplied(_norm_ratio), max_norm_growth, scale)


def sign(scale: ArrayLike = 1.0) -> optax.GradientTransformation:
    """Return scale sign(R), entry by entry (FRUGAL).

    Args:
      scale: the size of every entry of the result.

    Returns:
      An Optax transformation without state; its output is (..., m, n).

    Examples:
      >>> tx = residual.sign(0.5)
      >>> tx.update(jnp.array([[2.0, -3.0]]), tx.init(None))[0]
      Array([[ 0.5, -0.5]], dtype=float32)

    References:
      Zmushko et al., `FRUGAL <https://arxiv.org/abs/2411.07837>`_, 2024
    """

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        del params
        return jax.tree.map(lambda x: jnp.asarray(scale, x.dtype) * jnp.sign(x), updates)

    return optax.stateless(update)


def recovery_scaling() -> optax.GradientTransformationExtraArgs:
    """Scale each column of R as the inner optimizer scaled its projection (eq. 9).

    With N what the inner optimizer returned for g::

      L_i = (||N_i|| / ||g_i||) R_i

    The factor is 0 where ||g_i|| is negligible: momentum may move such a column, but does not
    determine its scale (`recovery_factors`). `recovery` limits its norm.

    Returns:
      An Optax transformation without state or marks; its output is (..., m, n).

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.scale_by_sign(), transport.keep(),
      ...     residual.per_column(residual.recovery_scaling()), rank=1, update_proj_gap=100,
      ... )
      >>> grad = jnp.array([[2.0, 4.0], [1.0, 1.0]])
      >>> tx.update(grad, tx.init(grad))[0]
      Array([[1.  , 1.  ],
             [0.5 , 0.25]], dtype=float32)

    References:
      Chen et al., `Fira <https://arxiv.org/abs/2410.01623>`_, 2024
    """
    return _multiplied(recovery_factors)


def recovery_factors(projected: Float[Array, "*b r n"], direction: Float[Array, "*b r n"]) -> Float[Array, "*b 1 n"]:
    """The factor of each column: phi_i = ||N_i|| / ||g_i||.

    Args:
      projected: g (..., r, n).
      direction: N (..., r, n), what the inner optimizer returned for g.

    Returns:
      phi (..., 1, n), 0 where ||g_i|| is negligible.

    Examples:
      >>> residual.recovery_factors(jnp.array([[2.0, 4.0, 0.0]]), jnp.ones((1, 3)))
      Array([[0.5 , 0.25, 0.  ]], dtype=float32)
    """
    scale = column_norms(projected)
    rms = jnp.sqrt(jnp.mean(jnp.square(jnp.where(jnp.isnan(scale), 0, scale)), axis=-1, keepdims=True))
    is_empty = scale <= _NEGLIGIBLE * rms
    return jnp.where(is_empty, 0, column_norms(direction) / jnp.where(is_empty, 1, scale))


def _norm_ratio(projected: Float[Array, "*b r n"], direction: Float[Array, "*b r n"]) -> Float[Array, "*b 1 1"]:
    norm = frobenius_norm(projected)
    is_empty = norm == 0
    ratio = jnp.where(is_empty, 0, frobenius_norm(direction) / jnp.where(is_empty, 1, norm))
    return ratio[..., None, None]


def _multiplied(factors_of: Callable[[Array, Array], Array]) -> optax.GradientTransformationExtraArgs:
    """R times factors, a function of the inner optimizer's input and output."""

    @jax.jit  # traced once for leaves of one shape
    def multiplied(outside: Array, projected: Array, direction: Array) -> Array:
        return (factors_of(projected, direction) * outside).astype(outside.dtype)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params
        split = split_of(extra_args)
        return map_present(multiplied, updates, split.projected, split.direction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _require_removed(given: ArrayLike, needed: ArrayLike) -> None:
    """A chain or a mask loses the mark `removed_fraction`: refuse to work on another residual."""
    numbers = isinstance(given, int | float) and isinstance(needed, int | float)
    if given is not needed and not (numbers and given == needed):
        raise ValueError(
            f"recovery(removed_fraction={needed}) is given R = G - {given} S S^T G, because a chain, "
            "a mask or a partition of it loses its marks. Mark what you made of it again: "
            "residual.marked(tx, per_column=True, removed_fraction=...)."
        )


def _scaled(tx: optax.GradientTransformation, max_norm_growth: ArrayLike | None, scale: ArrayLike) -> Residual:
    return per_column(optax.chain(with_limit(tx, max_norm_growth), scaled_by(scale**0.5)))
