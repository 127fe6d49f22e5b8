"""The residual as an error that is added to the next gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from grass_optax._inner.states import first_moment
from grass_optax._linalg.dtypes import cast
from grass_optax.bases import as_basis
from grass_optax.residual.marks import ErrorFeedbackState, Residual, errors_in, map_present, marked, split_of


def error_feedback(b1: ArrayLike) -> Residual:
    """Drop the residual from this update and add it to the next gradient (LDAdam).

    What the momentum lost in the change of basis is added too::

      E = G - S g + b1 / (1 - b1) (S_old M_old - S M)

    where M_old and M are the first moment before and after the transport.

    Args:
      b1: the decay rate of the inner first moment.

    Returns:
      A residual that returns zeros (..., m, n). Its state, an `ErrorFeedbackState`, is mn numbers.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.scale_by_adam(), transport.keep(),
      ...     residual.error_feedback(b1=0.9), rank=1, update_proj_gap=100,
      ... )
      >>> grad = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> _, state = tx.update(grad, tx.init(grad))
      >>> state.residual_state.error
      Array([[0., 0.],
             [3., 4.]], dtype=float32)

    References:
      Robert et al., `LDAdam: Adaptive Optimization from Low-Dimensional Gradient Statistics
      <https://arxiv.org/abs/2410.16103>`_, 2024
    """

    def init(params: optax.Params) -> ErrorFeedbackState:
        return ErrorFeedbackState(jax.tree.map(jnp.zeros_like, params))

    def error(outside: Array, basis: Any, old_basis: Any, moment: Array, old_moment: Array) -> Array:
        decay = jnp.asarray(b1, outside.dtype)
        with jax.default_matmul_precision("highest"):
            before, after = (
                as_basis(cast(s, outside.dtype)).lift(x.astype(outside.dtype))
                for s, x in ((old_basis, old_moment), (basis, moment))
            )
        return outside + decay / (1 - decay) * (before - after)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, ErrorFeedbackState]:
        del state, params
        split = split_of(extra_args)
        moments = (first_moment(x, b1) for x in (split.inner_state, split.previous_inner_state))
        errors = map_present(error, updates, split.basis, split.previous_basis, *moments)
        return jax.tree.map(jnp.zeros_like, updates), ErrorFeedbackState(errors)

    return marked(optax.GradientTransformationExtraArgs(init, update), feedback=errors_in)
