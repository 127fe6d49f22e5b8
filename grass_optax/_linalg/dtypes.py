"""In which type a state is kept: float32 at least.

A second moment in bf16 with b2 = 0.999 rounds back to itself and never decays, and a first moment
loses what is below 1/256 of it.

Members: widened, in_float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from grass_optax._linalg import grassmann


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The transformation with its state and arithmetic in float32 at least; updates keep their
    type.
    """
    wide_tx = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> Any:
        return wide_tx.init(widened(params))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        wide, state = wide_tx.update(widened(updates), state, params, **extra_args)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), wide, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def widened(tree: Any) -> Any:
    """A tree of arrays in float32 at least; complex and wider types stay."""
    return jax.tree.map(lambda x: x.astype(_wide(x.dtype)), tree)


def _wide(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.complexfloating) else grassmann.wide(dtype)
