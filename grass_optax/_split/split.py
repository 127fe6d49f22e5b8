"""The combinator: split the space of each matrix into a subspace and what lies outside, and give
each part its own optimizer.

It is written over three axes: `subspaces` (where the basis goes), `transport` (what the moments
become when it moves) and `residual` (what becomes of the rest); `inner`, the optimizer inside the
subspace, is any Optax transformation.

Members: split_by_subspace, SplitState.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from grass_optax._checks import positive
from grass_optax._linalg.grassmann import wide
from grass_optax._split.columns import column_factors, gradient_squares, lifted_squares, outside_norms
from grass_optax._split.refresh import Moved, Schedule, checked_key, move, without_bases, zero_bases
from grass_optax._trees import layouts
from grass_optax._trees.mesh import with_auto_axes
from grass_optax.bases.dense import Products
from grass_optax.residual import ResidualTransformation, finite_root, sum_of_squares
from grass_optax.subspaces import SubspaceRule
from grass_optax.transport import Transport


class SplitState(NamedTuple):
    """State of `split_by_subspace`: trees shaped like params, with arrays in the canonical
    orientation m <= n.
    """

    count: jax.Array  # type: ignore[assignment]  # (), int32: updates so far
    basis: Any  # (..., m, r) per leaf; MaskedNode where it is not stored
    inner: Any  # the inner optimizer's state over leaves (..., r, n)
    residual: Any  # the residual transformation's state, over column norms (..., 1, n) or residuals (..., m, n)
    rule: Any  # the rule's state per leaf
    layout: Any  # MatrixLayout per leaf: static, no arrays


class _Parts(NamedTuple):
    """How one step treats the two parts of a gradient."""

    schedule: Schedule
    inner: optax.GradientTransformationExtraArgs
    residual: ResidualTransformation | None
    scale: ArrayLike
    lift: bool
    products: Products
    orthonormal: bool  # every basis, the first included


def split_by_subspace(
    rule: SubspaceRule,
    inner: optax.GradientTransformation,
    transport: Transport,
    residual: ResidualTransformation | optax.GradientTransformation | None,
    *,
    rank: int,
    update_proj_gap: int,
    initial: SubspaceRule | None = None,
    lift: bool = True,
    scale: ArrayLike = 1.0,
    key: jax.Array | int = 0,
    basis_dtype: jax.typing.DTypeLike | None = None,
    store_basis: bool = True,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    """Optimize each matrix's projection by `inner`, treat the rest by `residual`, and add the two.

    One update of a gradient G (..., m, n), m <= n, at t = count + 1, with T = update_proj_gap:
      1. t = 1: S = initial(G). t = 1 + jT: S' = rule(S, G), inner state = transport(inner state, S'^T S), then S = S'.
      2. g = S^T G (..., r, n),  D = inner(g),  R = G - S g,  L = residual(R)
      3. U = scale * S D + L
    If the residual has feedback, what it kept of the last update is added to G before all that.

    U is the direction of the update, not negated. Every leaf is split: keep others away with
    `optax.partition` and `layouts.split_labels`. The two large products run at JAX's default matmul
    precision (`jax.default_matmul_precision`).

    Args:
      rule: where the basis goes at a refresh (`subspaces`).
      inner: any Optax transformation; it sees the leaves g, and of params only shapes and types,
        those of g.
      transport: what the inner state becomes at a refresh (`transport`).
      residual: what becomes of R (`residual`): a `ResidualTransformation`, any Optax
        transformation, which is then given R itself, or None to drop it.
      rank: r, at most m.
      update_proj_gap: updates from one refresh to the next.
      initial: the rule that makes the first basis; `rule` if not given.
      lift: False leaves the S D term out, and gives `residual` the gradient itself (APOLLO).
      scale: multiplies the low-rank part only.
      key: an int or a threefry key. A leaf's bases are a function of (key, refresh index, path of
        the leaf).
      basis_dtype: of the stored basis; float32 (float64 for float64 params) if not given. Below
        float32 the norms outside the subspace are corrected for S^T S != I.
      store_basis: False draws the basis again from its key each step instead of storing it; for
        rules that read only the key.
      map_stacks: multiply the matrices of a stack one after the other: less memory on a mesh
        (`products.Products`).
      weight_dimension_numbers: as in `optax.contrib.muon`; by default every leaf must be 2-D,
        (input, output).

    Raises:
      ValueError, TypeError: an argument or a leaf that cannot work, when built or initialised.
    """
    if not store_basis and (not rule.keyed or initial is not None):
        raise ValueError(
            "store_basis=False draws the basis again from its key each step, so the rule, which makes the first basis "
            "too, may read nothing but the key (as subspaces.random_jump does). Store the basis, or give such a rule "
            "and no `initial`."
        )
    schedule = Schedule(
        rule=rule,
        initial=rule if initial is None else initial,
        transport=transport,
        rank=positive("rank", rank),
        update_proj_gap=positive("update_proj_gap", update_proj_gap),
        key=checked_key(key),
        basis_dtype=basis_dtype,
        store_basis=store_basis,
    )
    if schedule.initial.moves:
        raise ValueError(
            "the rule starts from the basis before it, so another must make the first one. Give `initial`, such as "
            "subspaces.range_finder() or subspaces.random_jump()."
        )
    parts = _Parts(
        schedule=schedule,
        inner=optax.with_extra_args_support(inner),
        residual=_residual_transformation(residual),
        scale=scale,
        lift=lift,
        products=Products(map_stacks),
        orthonormal=rule.orthonormal and schedule.initial.orthonormal,
    )

    def init(params: optax.Params) -> SplitState:
        return _init(parts, layouts.matrix_layouts(params, weight_dimension_numbers), params)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        del params

        def step(updates: optax.Updates, state: Any, extra_args: dict[str, Any]) -> tuple[optax.Updates, Any]:
            directions, state = _step(parts, _with_feedback(parts, state, updates), state, extra_args)
            back = layouts.map_layouts(layouts.MatrixLayout.from_matrix, state.layout, directions)
            return jax.tree.map(lambda u, g: u.astype(g.dtype), back, updates), state

        return with_auto_axes(step, (updates, state))(updates, state, extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def _init(parts: _Parts, layout: Any, params: optax.Params) -> SplitState:
    """The state before the first update: all zero, the bases too, for the first update makes
    them.
    """
    rank = parts.schedule.rank
    layouts.require_rank(rank, layout)

    def zeros(rows: Callable[[layouts.MatrixLayout], int]) -> Any:
        return layouts.map_layouts(
            lambda spec, x: jnp.zeros((*spec.batch, rows(spec), spec.n), wide(x.dtype)), layout, params
        )

    grads = jax.eval_shape(lambda: zeros(lambda spec: spec.m))
    basis = zero_bases(parts.schedule, grads)
    per_column = parts.residual is not None and parts.residual.per_column
    outside = zeros(lambda spec: 1 if per_column else spec.m)
    inner = parts.inner.init(zeros(lambda _: rank))
    # A state that the transport does not know is an error now, and not at the first refresh.
    jax.eval_shape(parts.schedule.transport, inner, jax.tree.map(lambda s: s[..., :rank, :], basis))
    return SplitState(
        count=jnp.zeros((), jnp.int32),
        basis=basis if parts.schedule.store_basis else without_bases(grads),
        inner=inner,
        residual=optax.EmptyState() if parts.residual is None else parts.residual.init(outside),
        rule=jax.tree.map(lambda s: parts.schedule.rule.init(s.shape, s.dtype), basis),
        layout=layout,
    )


def _with_feedback(parts: _Parts, state: SplitState, updates: optax.Updates) -> optax.Updates:
    """The gradients, with what the residual kept of the last ones."""
    if parts.residual is None or parts.residual.feedback is None:
        return updates
    kept = layouts.map_layouts(layouts.MatrixLayout.from_matrix, state.layout, parts.residual.feedback(state.residual))
    return jax.tree.map(lambda g, e: g.astype(e.dtype) + e, updates, kept)


def _step(
    parts: _Parts, updates: optax.Updates, state: SplitState, extra_args: dict[str, Any]
) -> tuple[Any, SplitState]:
    """One update of gradients shaped like params, to directions (..., m, n): the algorithm box."""
    grads = layouts.map_layouts(layouts.MatrixLayout.to_matrix, state.layout, updates)
    before = Moved(state.basis, state.inner, state.rule)
    moved = move(parts.schedule, state.count, grads, before)
    projected = jax.tree.map(parts.products.project, moved.basis, grads)
    shapes = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), projected)
    direction, inner = parts.inner.update(projected, moved.inner, shapes, **extra_args)
    context = extra_args | {
        "grad": grads,
        "projected": projected,
        "direction": direction,
        "basis": moved.basis,
        "previous_basis": state.basis,
        "inner_state": moved.inner,
        "previous_inner_state": state.inner,
    }
    directions, residual = _combine(parts, context, updates, state)
    return directions, SplitState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        basis=moved.basis if parts.schedule.store_basis else state.basis,
        inner=inner,
        residual=residual,
        rule=moved.rule,
        layout=state.layout,
    )


def _combine(parts: _Parts, context: dict[str, Any], updates: optax.Updates, state: SplitState) -> tuple[Any, Any]:
    """U = S (scale D) + L, and the residual's new state."""
    grads, basis, projected, direction = (context[name] for name in ("grad", "basis", "projected", "direction"))
    residual, products = parts.residual, parts.products
    scaled = jax.tree.map(lambda d: jnp.asarray(parts.scale, d.dtype) * d, direction)
    if residual is None:
        return jax.tree.map(products.lift, basis, scaled), state.residual
    removed = jax.tree.map(lambda g: jnp.asarray(residual.removed, g.dtype) * g, projected)
    if not residual.per_column:
        outside = jax.tree.map(products.outside, basis, removed, grads) if parts.lift else grads
        outside, residual_state = residual.update(outside, state.residual, None, **context)
        if parts.lift:
            outside = jax.tree.map(lambda s, d, x: products.lift(s, d) + x, basis, scaled, outside)
        return outside, residual_state
    norms = layouts.map_layouts(gradient_squares, state.layout, updates)
    if parts.lift:
        inside = jax.tree.map(sum_of_squares, projected)
        lifted = jax.tree.map(functools.partial(lifted_squares, orthonormal=parts.orthonormal), basis, projected)
        norms = jax.tree.map(functools.partial(outside_norms, removed=residual.removed), norms, inside, lifted)
    else:
        norms = jax.tree.map(finite_root, norms)
    outputs, residual_state = residual.update(norms, state.residual, None, **context)
    factors = jax.tree.map(column_factors, outputs, norms)
    if parts.lift:
        return jax.tree.map(products.lift_scaled, factors, basis, scaled, removed, grads), residual_state
    return jax.tree.map(lambda f, g: f * g.astype(f.dtype), factors, grads), residual_state


def _residual_transformation(
    residual: ResidualTransformation | optax.GradientTransformation | None,
) -> ResidualTransformation | None:
    if residual is None or isinstance(residual, ResidualTransformation):
        return residual
    return ResidualTransformation(residual.init, optax.with_extra_args_support(residual).update)
