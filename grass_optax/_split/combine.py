"""The last line of a step: U = S (scale D) + L, in the cheapest form that the residual allows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from grass_optax._split.columns import column_factors, gradient_norms, residual_norms
from grass_optax._split.records import Split, SplitConfig, SplitState
from grass_optax._trees.layouts import map_layouts
from grass_optax.bases.basis import BasisLike, of_stack
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
    lift = functools.partial(_lift, config)
    low_rank = jax.tree.map(lambda d: jnp.asarray(config.scale, d.dtype) * d, split.direction)
    if config.residual is None:
        return jax.tree.map(lift, low_rank, split.basis), state.residual_state
    marks = config.residual.marks
    transform: Any = functools.partial(config.residual.update, **(extra_args | {"split": split}))
    if marks.per_column:
        norms = _column_norms(config, marks, updates, state, split)
        outputs, residual_state = transform(norms, state.residual_state, None)
        phi = jax.tree.map(column_factors, outputs, norms)
        outside = jax.tree.map(lambda f, g: f * g.astype(f.dtype), phi, split.grad)
        if config.lift:
            removed = jax.tree.map(lambda g: jnp.asarray(marks.removed_fraction, g.dtype) * g, split.projected)
            low_rank = jax.tree.map(lambda d, f, g: d - f * g, low_rank, phi, removed)
    else:
        outside = split.grad
        if config.lift:
            remove = functools.partial(_remove, config, marks.removed_fraction)
            outside = jax.tree.map(remove, split.grad, split.projected, split.basis)
        outside, residual_state = transform(outside, state.residual_state, None)
    if config.lift:
        outside = jax.tree.map(lambda d, x, s: lift(d, s) + x, low_rank, outside, split.basis)
    return outside, residual_state


def projection(config: SplitConfig, grad: Array, basis: BasisLike) -> Array:
    """g = S^T G of one leaf."""
    return of_stack(lambda s, g: s.project(g), config.map_stacks, basis, grad)


def _lift(config: SplitConfig, direction: Array, basis: BasisLike) -> Array:
    return of_stack(lambda s, d: s.lift(d), config.map_stacks, basis, direction)


def _remove(config: SplitConfig, fraction: ArrayLike, grad: Array, projected: Array, basis: BasisLike) -> Array:
    return of_stack(lambda s, g, p: s.remove(g, p, fraction), config.map_stacks, basis, grad, projected)


def _column_norms(config: SplitConfig, marks: Marks, updates: optax.Updates, state: SplitState, split: Split) -> PyTree:
    """The column norms of what a residual transformation marked per column is not given."""
    if not config.lift:
        return map_layouts(gradient_norms, state.layouts, updates)
    norms_of = functools.partial(
        residual_norms, removed_fraction=marks.removed_fraction, orthonormal=config.orthonormal
    )
    return map_layouts(norms_of, state.layouts, updates, split.basis, split.projected)
