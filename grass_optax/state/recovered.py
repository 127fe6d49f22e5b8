"""What a residual with a norm-growth limit returned: how much, and whether it was limited."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from grass_optax._linalg.norms import frobenius_norm, over_largest
from grass_optax._split.records import SplitState
from grass_optax._trees.boxes import unboxed
from grass_optax._trees.matrix_layout import MatrixLayout, is_layout
from grass_optax._trees.paths import leaf_path
from grass_optax.residual import NormGrowthLimitState
from grass_optax.residual.limit import is_set
from grass_optax.state.diagnostics import matrices_of, ratio
from grass_optax.state.owners import parts_of


class RecoveredResidual(NamedTuple):
    """What a residual returned for every matrix of a leaf.

    Attributes:
      relative: ||L|| / ||G|| (...), after the limit; 0 if G is zero, NaN if it is not finite.
      limited: (...): whether the limit held L down. It multiplies a matrix by one factor, so that
        all of its columns are limited or none is.
    """

    relative: Float[Array, "*b"]
    limited: Bool[Array, "*b"]


def recovered_residual(
    before: optax.OptState, after: optax.OptState, grads: optax.Updates, *, max_norm_growth: ArrayLike
) -> dict[str, RecoveredResidual]:
    """Return how large the recovered residual L of an update is, and whether it was limited.

    Its size is relative to the gradient's (Lambda and eq. 10 in the papers). The state holds p, the
    norm of the last L, and no factor of the limit, which need not be stored: the limit was active
    if it left the norm at its ceiling::

      limited = p_after >= zeta p_before,  unless p_before was not set

    A scale behind the limit, such as that of APOLLO, is not in L here.

    Args:
      before, after: the states before and after the update.
      grads: the gradients of the update, as they reached the split: L does not grow with them, so
        their size matters.
      max_norm_growth: zeta of the transformation.

    Returns:
      A dict from the path of each leaf with a limit to its `RecoveredResidual`. It works under
      `jax.jit`.

    Raises:
      ValueError: the states have no norm-growth limit of a residual, or grads lacks a leaf.

    Examples:
      >>> grads, tx = {"w": jnp.ones((4, 8))}, grass_optax.scale_by_grassjump(rank=2)
      >>> state = tx.init(grads)
      >>> _, first = tx.update(grads, state)
      >>> _, second = tx.update({"w": 5.0 + jnp.eye(4, 8)}, first)  # another direction
      >>> of = grass_optax.recovered_residual(first, second, grads, max_norm_growth=1.01)["w"]
      >>> of.limited.dtype, bool(of.relative > 0)
      (dtype('bool'), True)

    References:
      Chen et al., `Fira <https://arxiv.org/abs/2410.01623>`_, 2024
    """
    of_leaf = {}
    grad_of, earlier = matrices_of(grads), _limits(before)
    for path, (layout, norm, _) in _limits(after).items():
        if path not in earlier:
            raise ValueError(f"the earlier state has no limit of leaf {path!r}. Give two states of one run.")
        _, last, held = earlier[path]
        growth = jnp.asarray(max_norm_growth, norm.dtype)
        ceiling = growth * last * (1 - 4 * jnp.finfo(norm.dtype).eps)  # the norm is rounded twice
        limited = is_set(last, held) & (norm >= ceiling)
        grad, largest = over_largest(grad_of(path, layout))
        relative = ratio(ratio(norm, frobenius_norm(grad)), largest)
        of_leaf[path] = RecoveredResidual(relative, limited)
    if not of_leaf:
        raise ValueError(
            "the state holds no norm-growth limit of a residual. Give states of a method whose residual has one."
        )
    return of_leaf


def _limits(state: optax.OptState) -> dict[str, tuple[MatrixLayout, Array, Array]]:
    """The layout, the norm of the last output and the count of every leaf with a limit."""
    limits = {}
    for _, split in parts_of(unboxed(state), SplitState):
        layouts = dict(jax.tree.leaves_with_path(split.layouts, is_leaf=is_layout))
        for _, limit in parts_of(split.residual_state, NormGrowthLimitState):
            held = dict(jax.tree.leaves_with_path(limit.held))
            for path, norm in jax.tree.leaves_with_path(limit.norm):
                limits[leaf_path(path)] = layouts[path], norm, held[path]
    return limits
