"""In which type a state is kept: float32 at least.

A second moment in bf16 with b2 = 0.999 rounds back to itself and never decays, and a first moment
loses what is below 1/256 of it.

Members: widened.
"""

from typing import Any

import jax
import jax.numpy as jnp

from grass_optax._linalg import grassmann


def widened(tree: Any) -> Any:
    """A tree of arrays in float32 at least; complex and wider types stay."""
    return jax.tree.map(lambda x: x.astype(_wide(x.dtype)), tree)


def _wide(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.complexfloating) else grassmann.wide(dtype)
