"""The combinator: split the space of each matrix into a subspace and what lies outside it.

Each part gets an optimizer of its own. The split is written over three axes: `subspaces` (where
the basis goes), `transport` (what the moments become when it moves) and `residual` (what becomes of
the rest). `inner`, the optimizer inside the subspace, is any Optax transformation.

`_step` is the algorithm, and `combine` its last line. In the paper's letters, G is `grads`, S is
`basis`, g is `projected` and D is `direction`; R and L are the input and the output of the residual
transformation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree

from grass_optax._checks import positive
from grass_optax._inner.states import require_betas, require_direction
from grass_optax._linalg.dtypes import as_arrays, as_shapes, as_wide_as, wide
from grass_optax._split.checks import (
    floating_type,
    require_axes,
    require_consistent,
    require_feedback,
    require_same_split,
    require_stateless_initial,
)
from grass_optax._split.combine import combined, projection
from grass_optax._split.records import Split, SplitConfig, SplitState, stored_layouts
from grass_optax._split.refresh import moved, rotated, rule_states, without_bases, zero_bases
from grass_optax._trees import layouts
from grass_optax._trees.boxes import without_boxes
from grass_optax._trees.keys import checked_key, first_index, part_of_stacks
from grass_optax._trees.layouts import map_layouts
from grass_optax._trees.matrix_layout import MatrixLayout
from grass_optax._trees.mesh import with_auto_axes
from grass_optax.residual.marks import as_residual
from grass_optax.subspaces import SubspaceRule
from grass_optax.transport import Rotate, Transport


def split_by_subspace(
    rule: SubspaceRule,
    inner: optax.GradientTransformation,
    transport: Transport,
    residual: optax.GradientTransformation | None,
    *,
    rank: int,
    update_proj_gap: int,
    initial: SubspaceRule | None = None,
    lift: bool = True,
    scale: ArrayLike = 1.0,
    key: jax.Array | int = 0,
    basis_dtype: DTypeLike | None = None,
    store_basis: bool = True,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    """Optimize each matrix's projection with `inner`, the rest with `residual`, and add the two.

    One update of a gradient G (..., m, n), m <= n, at t = count + 1, with T = update_proj_gap::

      t = 1:       S = initial(G)
      t = 1 + jT:  S' = rule(S, G),  inner state = transport(inner state, S'^T S),  S = S'
      g = S^T G,   D = inner(g),  R = G - S g,  L = residual(R)
      U = scale * S D + L

    U is the direction of the update, not negated. If the residual has feedback, what it kept of the
    last update is added to G first. Every leaf is split: keep others away with `optax.partition`
    and `layouts.split_labels`. Each matrix of a stack is treated as if it were alone, by `inner`
    too if that treats matrices apart, as Adam does and Adafactor does not.

    The two large products run at JAX's default matmul precision (`jax.default_matmul_precision`).
    Extra arguments of `update` reach `inner` and `residual` untouched. Both get one more, `split`,
    a record of what the step knows (`residual` lists its fields); `inner` if it takes any.

    Args:
      rule: where the basis goes at a refresh (`subspaces`).
      inner: any Optax transformation. Its updates are the leaves g, and its params their shapes and
        types.
      transport: what the inner state becomes at a refresh (`transport`).
      residual: any Optax transformation of R (`residual`), or None to drop R.
      rank: r, at most m.
      update_proj_gap: T, the number of updates from one refresh to the next.
      initial: the rule that makes the first basis; `rule` by default.
      lift: False leaves out the term S D and passes the gradient itself to `residual` (APOLLO).
      scale: multiplies only the low-rank part S D.
      key: an int or a threefry key. The bases of a matrix are a function of the key, the refresh,
        the path of its leaf and its index in the stack.
      basis_dtype: the type of the stored bases; float32 (float64 for float64 params) by default.
        Below float32 the norms outside the subspace are corrected for S^T S != I.
      store_basis: False draws the bases again from their key at each step. This needs a rule that
        reads only the key.
      map_stacks: True multiplies the matrices of a stack one after the other, which takes less
        memory on a mesh (docs/guides/sharding.md, "Stacks").
      weight_dimension_numbers: as in `optax.contrib.muon`; by default every leaf must be 2-D,
        (input, output).

    Returns:
      The transformation. Its state is a `SplitState`.

    Raises:
      ValueError: an argument that cannot work, when built; a leaf that cannot be split, or an inner
        optimizer whose betas are not those of the transport, when initialised.
      TypeError: a leaf that is not real floating point, or an inner state that the transport does
        not know, when initialised.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.random_jump(), optax.scale_by_lion(), transport.rotate(0.9, 0.99),
      ...     residual.recovery(), rank=2, update_proj_gap=100,
      ... )
      >>> params = {"w": jnp.ones((4, 8))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> state.basis["w"].shape, state.inner_state.mu["w"].shape
      ((4, 2), (2, 8))
    """
    require_axes(rule, inner, transport, residual, initial)
    config = SplitConfig(
        rule=rule,
        initial=rule if initial is None else initial,
        inner=optax.with_extra_args_support(inner),
        transport=transport,
        residual=as_residual(residual),
        rank=positive("rank", rank),
        update_proj_gap=positive("update_proj_gap", update_proj_gap),
        lift=lift,
        scale=scale,
        key=checked_key(key),
        basis_dtype=floating_type(basis_dtype),
        store_basis=store_basis and not rule.fixed,
        map_stacks=map_stacks,
    )
    require_consistent(config)

    def init(params: optax.Params) -> SplitState:
        return _init(config, layouts.matrix_layouts(params, weight_dimension_numbers), as_shapes(params))

    def step(updates: optax.Updates, state: SplitState, arrays: dict[str, Any], first: Any, **others: Any) -> Any:
        def on_auto_axes(updates: optax.Updates, state: SplitState, arrays: dict[str, Any], first: Any) -> Any:
            with part_of_stacks(first):
                return _step(config, updates, state, arrays | others)

        return with_auto_axes(on_auto_axes, (updates, state))(updates, state, arrays, first)

    # An update that is not jitted runs a compiled step, too. Otherwise its loop would be compiled
    # at every update.
    compiled_step = jax.jit(step, inline=True)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        updates = as_wide_as(updates, params)
        require_same_split(config, layouts.matrix_layouts(updates, weight_dimension_numbers), state)
        arrays, others = _arrays_and_others(extra_args)
        if others:
            return step(updates, as_arrays(state), arrays, first_index(), **others)
        return compiled_step(updates, state, arrays, first_index())

    return without_boxes(optax.GradientTransformationExtraArgs(init, update))


def _arrays_and_others(extra_args: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Extra arguments that are trees of arrays, and others, such as the functions of a search."""

    def is_numeric(tree: Any) -> bool:
        return all(isinstance(x, jax.Array | np.ndarray | np.generic | int | float) for x in jax.tree.leaves(tree))

    arrays = {name: x for name, x in extra_args.items() if is_numeric(x)}
    return arrays, {name: x for name, x in extra_args.items() if name not in arrays}


def _init(config: SplitConfig, layout: PyTree, params: optax.Params) -> SplitState:
    """The state before the first update: all zero, the bases too, which that update makes."""
    layouts.require_rank(config.rank, layout)

    def zeros(rows: Callable[[MatrixLayout], int]) -> PyTree:
        return map_layouts(
            lambda spec, x: jnp.zeros((*spec.batch, rows(spec), spec.n), wide(x.dtype)),
            layout,
            params,
        )

    grads = jax.eval_shape(lambda: zeros(lambda spec: spec.m))
    basis = zero_bases(config, grads)
    require_stateless_initial(config, grads)
    projected = zeros(lambda _: config.rank)
    require_direction(config.inner, projected)
    inner_state = config.inner.init(projected)
    # A state that the transport does not know is an error now, and not at the first refresh.
    jax.eval_shape(functools.partial(rotated, config), inner_state, basis, basis, grads)
    if isinstance(config.transport, Rotate):
        require_betas(config.inner, inner_state, projected, config.transport.betas)
    residual_state: Any = optax.EmptyState()
    if config.residual is not None:
        is_row = config.residual.marks.per_column
        residual_state = config.residual.init(zeros(lambda spec: 1 if is_row else spec.m))
        require_feedback(config, residual_state)
    return SplitState(
        count=jnp.zeros((), jnp.int32),
        basis=basis if config.store_basis else without_bases(grads),
        inner_state=inner_state,
        residual_state=residual_state,
        rule_state=rule_states(config, grads),
        layout=stored_layouts(layout, basis),
    )


def _step(
    config: SplitConfig, updates: optax.Updates, state: SplitState, extra_args: dict[str, Any]
) -> tuple[optax.Updates, SplitState]:
    """One update: the algorithm box of the paper."""
    grads = _gradients(config, updates, state)
    now = moved(config, state, grads)
    projected = jax.tree.map(functools.partial(projection, config), grads, now.basis)
    shapes = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), projected)
    split = Split(
        grad=grads,
        projected=projected,
        basis=now.basis,
        previous_basis=state.basis,
        inner_state=now.inner_state,
        previous_inner_state=state.inner_state,
        removed_fraction=config.residual.marks.removed_fraction if config.residual else 1.0,
    )
    of_inner = extra_args | ({"split": split} if config.inner_takes_split else {})
    direction, inner_state = config.inner.update(projected, now.inner_state, shapes, **of_inner)
    split = split._replace(direction=direction, updated_inner_state=inner_state)
    directions, residual_state = combined(config, updates, state, split, extra_args)
    back = map_layouts(MatrixLayout.from_matrix, state.layouts, directions)
    return jax.tree.map(lambda u, g: u.astype(g.dtype), back, updates), SplitState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        basis=now.basis if config.store_basis else state.basis,
        inner_state=inner_state,
        residual_state=residual_state,
        rule_state=now.rule_state,
        layout=state.layout,
    )


def _gradients(config: SplitConfig, updates: optax.Updates, state: SplitState) -> PyTree:
    """The gradients as (..., m, n), with what the residual kept of the last ones."""
    grads = map_layouts(MatrixLayout.to_matrix, state.layouts, updates)
    if config.residual is None or config.residual.marks.feedback is None:
        return grads
    error = config.residual.marks.feedback(state.residual_state)
    if error is None:
        return grads

    def add(grad: Array, kept: Any) -> Array:
        return grad if isinstance(kept, optax.MaskedNode) else grad.astype(kept.dtype) + kept

    return jax.tree.map(add, grads, error)
