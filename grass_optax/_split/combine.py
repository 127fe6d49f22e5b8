"""The last line of a step: U = S (scale D) + L, in the cheapest form that the residual allows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from grass_optax._split.columns import column_factors, gradient_norms, residual_norms
from grass_optax._split.records import Split, SplitConfig, SplitState
from grass_optax._trees.layouts import map_layouts
from grass_optax.bases import dense
from grass_optax.residual import Marks


def combined(
    config: SplitConfig,
    updates: optax.Updates,
    state: SplitState,
    split: Split,
    extra_args: dict[str, Any],
) -> tuple[PyTree, PyTree]:
    """The directions U (..., m, n), and the residual's new state.

    By the residual, with c its `removed_fraction` and phi the factors of the columns (`columns`)::

                  lift                            no lift
      None        S (scale D)
      dense       S (scale D) + L(G - c S g)      L(G)
      per column  S (scale D - phi c g) + phi G   phi G
    """
    lift = functools.partial(dense.lift, map_stacks=config.map_stacks)
    low_rank = jax.tree.map(lambda d: jnp.asarray(config.scale, d.dtype) * d, split.direction)
    if config.residual is None:
        return jax.tree.map(lift, split.basis, low_rank), state.residual_state
    marks = config.residual.marks
    transform: Any = functools.partial(config.residual.update, **(extra_args | {"split": split}))
    removed = jax.tree.map(lambda g: jnp.asarray(marks.removed_fraction, g.dtype) * g, split.projected)
    if marks.per_column:
        norms = _column_norms(config, marks, updates, state, split)
        outputs, residual_state = transform(norms, state.residual_state, None)
        phi = jax.tree.map(column_factors, outputs, norms)
        outside = jax.tree.map(lambda f, g: f * g.astype(f.dtype), phi, split.grad)
        if config.lift:
            low_rank = jax.tree.map(lambda d, f, g: d - f * g, low_rank, phi, removed)
    else:
        outside = split.grad
        if config.lift:
            inside = jax.tree.map(lift, split.basis, removed)
            outside = jax.tree.map(lambda g, x: g.astype(x.dtype) - x, outside, inside)
        outside, residual_state = transform(outside, state.residual_state, None)
    if config.lift:
        outside = jax.tree.map(lambda s, d, x: lift(s, d) + x, split.basis, low_rank, outside)
    return outside, residual_state


def _column_norms(config: SplitConfig, marks: Marks, updates: optax.Updates, state: SplitState, split: Split) -> PyTree:
    """The column norms of what a residual transformation marked per column is not given."""
    if not config.lift:
        return map_layouts(gradient_norms, state.layouts, updates)
    norms_of = functools.partial(
        residual_norms, removed_fraction=marks.removed_fraction, orthonormal=config.orthonormal
    )
    return map_layouts(norms_of, state.layouts, updates, split.basis, split.projected)
