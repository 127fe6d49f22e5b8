"""The norm of the last gradient, as a state of the optimizer: for steps that clip by it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from train.program.task import Batch, Params


class _Norm(NamedTuple):
    """The global norm of the last gradient that was finite; 0 before the first."""

    previous_norm: Array  # (), float32


def place_for_norm() -> optax.GradientTransformation:
    """Return a transformation that only has a state, which `with_norm` writes."""
    return optax.GradientTransformation(lambda _: _Norm(jnp.zeros((), jnp.float32)), optax.identity().update)


def with_norm(step: Callable[..., Any]) -> Callable[[Params, optax.OptState, Batch], Any]:
    """Return a step that keeps the norm of its gradient in the state, for the clip of the next."""

    def remembering(params: Params, state: Any, batch: Batch) -> Any:
        (norm, *_) = state
        params, (_, *others), report = step(params, state, batch, norm.previous_norm)
        is_good = jnp.isfinite(report.grad_norm)
        norm = _Norm(jnp.where(is_good, report.grad_norm, norm.previous_norm))
        return params, (norm, *others), report

    return remembering
