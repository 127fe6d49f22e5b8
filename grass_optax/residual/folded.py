"""Residuals that are divided by a root of Adam's second moment: GWT and FOAM.

Both fold a matrix (`bases.Fold`), so that a block of rows shares its moments. GWT divides the
residual of a row by the root of its block. FOAM adds the residual to the first moment of every
entry, and its square to the second.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from grass_optax._inner.states import adam_state
from grass_optax._inner.transforms import averaged, bias_corrections
from grass_optax._linalg.norms import frobenius_norm
from grass_optax.bases import BasisLike, Fold, as_basis
from grass_optax.residual.marks import map_present, split_of


def block_scaling(
    b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, scale: ArrayLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Divide the residual by what Adam divided its block by (GWT).

    With N = Mhat / (sqrt(Vhat) + eps), which is Adam's direction, D what the inner optimizer made
    of it, and E V the matrix in which each row has the numbers of its block::

      L = scale f R / (1 - b1^t) / (E sqrt(Vhat) + eps),   f = ||D||_F / ||N||_F

    f is 1, unless something limits Adam's direction. R is no average, but the released code
    corrects it like one, by 1 / (1 - b1^t).

    Args:
      b1, b2, eps: those of the inner Adam.
      scale: the same as that of the split, which does not multiply residuals.

    Returns:
      An Optax transformation without state, for the rule `subspaces.fold`; its output L is
      (..., m, n).

    Raises:
      TypeError: at the first update, if the basis is no `bases.Fold` or the inner optimizer not
        Adam.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.fold(), optax.scale_by_adam(0.0, 0.9, 0.0), transport.keep(),
      ...     residual.block_scaling(0.0, 0.9, 0.0), rank=1, update_proj_gap=1,
      ... )
      >>> grad = jnp.array([[1.0, 4.0], [3.0, 4.0]])  # over their sums, times sqrt(2)
      >>> tx.update(grad, tx.init(grad))[0].round(2)
      Array([[0.35, 0.71],
             [1.06, 0.71]], dtype=float32)

    References:
      Wen et al., `Breaking Memory Limits: Gradient Wavelet Transform Enhances LLMs Training
      <https://arxiv.org/abs/2501.07237>`_, 2025
    """

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params
        split = split_of(extra_args)
        adam = adam_state(split.inner_state)
        count = optax.safe_increment(adam.count)

        def one(outside: Array, basis: BasisLike, mu: Array, nu: Array, projected: Array, direction: Array) -> Array:
            # Not those after the update, which narrow types have rounded.
            mu, nu = averaged(projected, mu, b1), averaged(jnp.square(projected), nu, b2)
            mean, square, correction = _corrected(mu, nu, count, b1, b2)
            root = jnp.sqrt(square) + jnp.asarray(eps, square.dtype)
            factor = jnp.asarray(scale, root.dtype) * _ratio(direction, mean / root) / correction
            return outside * _fold(basis).spread(factor / root)

        return map_present(one, updates, split.basis, adam.mu, adam.nu, split.projected, split.direction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def unfolded_adam(
    b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, scale: ArrayLike = 1.0, residual_scale: ArrayLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Adam with lifted moments, and the residual in both of them (FOAM).

    Use it with `lift=False`, because the update is no sum of two parts. With c the
    `residual_scale`, and all squares, those of S too, elementwise::

      L = scale (S M + c R) / (1 - b1^t) / (sqrt((S^2 V + c^2 R^2) / (1 - b2^t)) + eps)

    Args:
      b1, b2, eps: those of the inner Adam.
      scale: multiplies the result.
      residual_scale: c.

    Returns:
      An Optax transformation without state; its output L is (..., m, n).

    Raises:
      TypeError: at the first update, if the inner optimizer is not Adam.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.fold(), optax.scale_by_adam(0.0, 0.0, 0.0), transport.keep(),
      ...     residual.unfolded_adam(0.0, 0.0, 0.0), rank=1, update_proj_gap=1, lift=False,
      ... )
      >>> grad = jnp.outer(jnp.array([1.0, 1.0, 7.0, 7.0]), jnp.ones(4))  # 4, and -3 or 3 beside it
      >>> tx.update(grad, tx.init(grad))[0][:, 0]
      Array([0.2, 0.2, 1.4, 1.4], dtype=float32)

    References:
      Wen et al., `FOAM: Blocked State Folding for Memory-Efficient LLM Training
      <https://arxiv.org/abs/2512.07112>`_, 2025
    """

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params
        split = split_of(extra_args)
        adam = adam_state(split.updated_inner_state)

        def one(grad: Array, projected: Array, of_leaf: BasisLike, mu: Array, nu: Array) -> Array:
            basis = as_basis(of_leaf)
            outside = jnp.asarray(residual_scale, mu.dtype) * basis.remove(grad, projected, 1)
            mean, square = basis.lift(mu) + outside, basis.squared().lift(nu) + jnp.square(outside)
            mean, square, _ = _corrected(mean, square, adam.count, b1, b2)
            return jnp.asarray(scale, mu.dtype) * mean / (jnp.sqrt(square) + jnp.asarray(eps, mu.dtype))

        return map_present(one, updates, split.projected, split.basis, adam.mu, adam.nu), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _corrected(
    mean: Float[Array, "*b k n"], square: Float[Array, "*b k n"], count: Any, b1: ArrayLike, b2: ArrayLike
) -> tuple[Float[Array, "*b k n"], Float[Array, "*b k n"], Float[Array, ""]]:
    """Moments with Adam's hats, and 1 - b1^t."""
    first, second = bias_corrections(count, b1, b2, mean.dtype)
    return mean / first, square / second, first


def _ratio(direction: Float[Array, "*b r n"], of_adam: Float[Array, "*b r n"]) -> Float[Array, "*b 1 1"]:
    """f: 0 where Adam's direction is zero."""
    norm = frobenius_norm(of_adam)
    ratio = jnp.where(norm == 0, 0, frobenius_norm(direction) / jnp.where(norm == 0, 1, norm))
    return ratio[..., None, None]


def _fold(basis: BasisLike) -> Fold:
    if not isinstance(basis, Fold):
        raise TypeError(
            f"the basis is {type(basis).__name__}, but block_scaling divides by roots of blocks of rows. Give the "
            "split the rule subspaces.fold()."
        )
    return basis
