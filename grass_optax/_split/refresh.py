"""When and how the bases move: the one decision of an update.

The basis of a matrix at refresh j is a function of the key, j, the matrix (`_trees.keys`) and what
its rule reads. Nothing random is stored.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, PyTree, UInt32

from grass_optax._linalg.dtypes import cast, rounded, wide
from grass_optax._split.checks import require_form
from grass_optax._split.once import at_most_once
from grass_optax._split.records import SplitConfig, SplitState, by_leaf
from grass_optax._trees.keys import folded, matrix_numbers, numbers_of, typed_key
from grass_optax._trees.mesh import is_mesh_free
from grass_optax.bases import BasisLike, Dense, as_basis
from grass_optax.subspaces import Refresh, SubspaceRule


def basis_dtype(config: SplitConfig, grad: Any) -> Any:
    """The type in which the bases of a leaf are stored."""
    return wide(grad.dtype) if config.basis_dtype is None else config.basis_dtype


def zero_bases(config: SplitConfig, grads: PyTree) -> PyTree:
    """Bases before the first update, for canonical gradients (..., m, n); those of a fixed rule are
    its bases.
    """

    def form(grad: jax.Array) -> BasisLike:
        *batch, m, _ = grad.shape
        return config.rule.forms(tuple(batch), (m, config.rank), basis_dtype(config, grad))

    return jax.tree.map(form, grads)


def without_bases(grads: PyTree) -> PyTree:
    """What a state holds instead of bases that are drawn again at every step."""
    return jax.tree.map(lambda _: optax.MaskedNode(), grads)


def rule_states(config: SplitConfig, grads: PyTree) -> PyTree:
    """The rule's state of every leaf before the first update: that of each of its matrices."""

    def init(grad: jax.Array) -> PyTree:
        *batch, m, _ = grad.shape
        of_one = config.rule.init((m, config.rank), basis_dtype(config, grad))
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), of_one)

    return jax.tree.map(init, grads)


def moved(config: SplitConfig, state: SplitState, grads: PyTree) -> SplitState:
    """The state with the bases of this update: kept, refreshed or made for the first time."""
    if config.rule.fixed:
        return state._replace(basis=zero_bases(config, grads))
    index = state.count // config.update_proj_gap
    if not config.store_basis:
        return _redrawn(config, state, grads, index)
    return at_most_once(
        state.count % config.update_proj_gap == 0,
        functools.partial(_refreshed, config, grads),
        index,
        state,
    )


def _refreshed(config: SplitConfig, grads: PyTree, index: Array, state: SplitState) -> SplitState:
    def initial(index: Array, state: SplitState) -> SplitState:
        basis, rule = _drawn(config, config.initial, state, grads, index, first=True)
        return state._replace(basis=basis, rule_state=rule if config.initial is config.rule else state.rule_state)

    def refresh(index: Array, state: SplitState) -> SplitState:
        basis, rule = _drawn(config, config.rule, state, grads, index)
        return state._replace(basis=basis, inner_state=_transported(config, grads, state, basis), rule_state=rule)

    def keyed(index: Array, state: SplitState) -> SplitState:
        # One rule that reads the key alone makes all bases: one draw, outside of the branches.
        basis, _ = _drawn(config, config.rule, state, grads, index)
        inner = lax.cond(
            state.count == 0,
            lambda: state.inner_state,
            lambda: _transported(config, grads, state, basis),
        )
        return state._replace(basis=basis, inner_state=inner)

    if config.initial is config.rule and config.rule.keyed:
        return keyed(index, state)
    return lax.cond(state.count == 0, initial, refresh, index, state)


def _redrawn(config: SplitConfig, state: SplitState, grads: PyTree, index: Array) -> SplitState:
    """The state with the bases of this update, for bases that are functions of their key alone and
    are not stored.
    """
    shaped = state._replace(basis=zero_bases(config, grads))  # the rule reads no more than shapes
    basis, _ = _drawn(config, config.rule, shaped, grads, index)

    def transported(index: Array, inner: PyTree) -> PyTree:
        old, _ = _drawn(config, config.rule, shaped, grads, index - 1)
        return _transported(config, grads, shaped._replace(basis=old, inner_state=inner), basis)

    due = (state.count % config.update_proj_gap == 0) & (state.count > 0)
    return state._replace(basis=basis, inner_state=at_most_once(due, transported, index, state.inner_state))


def _transported(config: SplitConfig, grads: PyTree, state: SplitState, basis: PyTree) -> PyTree:
    return rotated(config, state.inner_state, basis, state.basis, grads)


def rotated(config: SplitConfig, inner_state: PyTree, new: PyTree, old: PyTree, grads: PyTree) -> PyTree:
    """The inner state after the transport from the old bases to the new ones."""

    def rotation(grad: Array, new: BasisLike, old: BasisLike) -> BasisLike:
        q = as_basis(new).rotation(as_basis(old), grad)
        return q.matrix if isinstance(q, Dense) else q

    return config.transport(inner_state, jax.tree.map(rotation, grads, new, old))


class _Read(NamedTuple):
    """What the rule reads of one leaf: of every matrix, or of several matrices that are alike."""

    numbers: UInt32[Array, "*b k"]
    grad: Array
    basis: BasisLike
    moments: list[Array]
    rule_state: PyTree


def _drawn(
    config: SplitConfig,
    rule: SubspaceRule,
    state: SplitState,
    grads: PyTree,
    index: Array,
    first: bool = False,
) -> tuple[PyTree, PyTree]:
    """Apply a rule to every matrix: new bases, rounded to the type of the old ones, rule states.

    They are constants of a derivative: singular vectors have none where values meet, and the loops
    and host calls that make them have none backwards.
    """
    state, grads = lax.stop_gradient((state, grads))
    treedef: Any = jax.tree.structure(grads)
    key = jax.random.fold_in(typed_key(config.key), index)
    moments, inner_state = by_leaf(state.inner_state, treedef)

    def update(read: _Read) -> tuple[BasisLike, PyTree]:
        refresh = Refresh(
            key=folded(key, read.numbers),
            count=state.count,
            grad=read.grad,
            basis=jax.tree.map(lambda x: cast(x, wide(x.dtype)), read.basis),
            inner_state=inner_state(read.moments),
            rule_state=read.rule_state,
            first=first,
        )
        basis, rule_state = rule.update(refresh)
        require_form(basis, read.basis)
        return rounded(basis, basis_dtype(config, read.grad)), rule_state

    numbers = numbers_of(path for path, _ in jax.tree.leaves_with_path(grads))
    reads = [
        _Read(matrix_numbers(numbers[path], grad.shape[:-2]), grad, old, moments[i], rule_state)
        for i, ((path, grad), old, rule_state) in enumerate(
            zip(
                jax.tree.leaves_with_path(grads),
                treedef.flatten_up_to(state.basis),
                treedef.flatten_up_to(state.rule_state),
                strict=True,
            )
        )
    ]
    results = _of_each_matrix(update, reads)
    bases, states = zip(*results, strict=True) if results else ((), ())
    return treedef.unflatten(bases), treedef.unflatten(states)


def _of_each_matrix(f: Callable[[_Read], PyTree], reads: list[_Read]) -> list[PyTree]:
    """f of every matrix of every leaf, side by side where leaves are alike.

    A model of a hundred unstacked matrices takes a minute and more to compile if the basis of each
    is drawn and orthonormalised on its own.
    """
    results: list[PyTree] = [None] * len(reads)
    for members in _alike(reads):
        if len(members) == 1:
            (i,) = members
            results[i] = _over_batch(f, reads[i].grad.shape[:-2], reads[i])
            continue
        stack = jax.tree.map(lambda *x: jnp.stack(x), *(reads[i] for i in members))
        result = _over_batch(f, (len(members),), stack)
        for place, i in enumerate(members):
            results[i] = jax.tree.map(lambda x, place=place: x[place], result)
    return results


def _alike(reads: list[_Read]) -> list[list[int]]:
    """The leaves in groups: single matrices of the same shapes and types, off any mesh."""
    groups: dict[Hashable, list[int]] = {}
    for i, read in enumerate(reads):
        arrays, structure = jax.tree.flatten(read)
        is_single = read.grad.ndim == 2 and is_mesh_free(read.grad)
        groups.setdefault((structure, *map(jax.typeof, arrays)) if is_single else i, []).append(i)
    return list(groups.values())


def _over_batch(f: Callable[[_Read], PyTree], batch: tuple[int, ...], read: _Read) -> PyTree:
    """f of every matrix of a stack. Arrays without the batch axes are the same for all of them."""
    arrays = jax.tree.leaves(read)
    structure: Any = jax.tree.structure(read)
    is_batched = [x.shape[: len(batch)] == batch for x in arrays]

    def of_one(*batched: Array) -> PyTree:
        own = iter(batched)
        return f(structure.unflatten([next(own) if b else x for b, x in zip(is_batched, arrays, strict=True)]))

    mapped: Callable[..., PyTree] = of_one
    for _ in batch:
        mapped = jax.vmap(mapped)
    return mapped(*(x for b, x in zip(is_batched, arrays, strict=True) if b))
