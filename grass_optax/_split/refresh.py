"""When and how the bases move: the one decision of an update, and the keys behind every random
draw.

A leaf's basis at refresh j is a function of (key, j, path of the leaf) and of what its rule reads,
so nothing random is stored, and adding a leaf changes no other leaf's basis, but for the rounding
of what is computed side by side (`groups`).

Members: Schedule, Moved, move, zero_bases, without_bases, checked_key, typed_key.
"""

import functools
import operator
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from grass_optax._linalg import grassmann
from grass_optax._linalg.grassmann import wide
from grass_optax._split.groups import alike, is_mesh_free
from grass_optax._trees.layouts import leaf_path
from grass_optax._trees.mesh import whole_along
from grass_optax.subspaces import Refresh, SubspaceRule
from grass_optax.transport import Transport

_KEY_IMPLEMENTATION = "threefry2x32"  # its bits depend neither on the backend nor on the sharding


class Schedule(NamedTuple):
    """What decides the bases: the arguments of `split_by_subspace` that concern them."""

    rule: SubspaceRule
    initial: SubspaceRule
    transport: Transport
    rank: int
    update_proj_gap: int
    key: jax.Array | int
    basis_dtype: Any
    store_basis: bool


class Moved(NamedTuple):
    """The bases of a step, and the inner and rule states that go with them."""

    basis: Any
    inner: Any
    rule: Any


def zero_bases(schedule: Schedule, grads: Any) -> Any:
    """Bases before the first update, for canonical gradients (..., m, n)."""

    def zeros(grad: jax.Array) -> jax.Array:
        dtype = wide(grad.dtype) if schedule.basis_dtype is None else schedule.basis_dtype
        return jnp.zeros((*grad.shape[:-1], schedule.rank), dtype)

    return jax.tree.map(zeros, grads)


def without_bases(grads: Any) -> Any:
    """What a state holds in place of bases that are drawn again every time."""
    return jax.tree.map(lambda _: optax.MaskedNode(), grads)


def move(schedule: Schedule, count: jax.Array, grads: Any, state: Moved) -> Moved:
    """The bases for the update after `count` others: stay, refresh or initial, decided once for the
    whole tree.
    """
    index = count // schedule.update_proj_gap
    if not schedule.store_basis:
        return _move_drawn(schedule, count, index, grads, state)

    def refresh(index: jax.Array, state: Moved) -> Moved:
        new, rule = _draw(schedule, schedule.rule, count, index, grads, state)
        return Moved(new, _transported(schedule, grads, state.inner, new, state.basis), rule)

    def initial(index: jax.Array, state: Moved) -> Moved:
        new, rule = _draw(schedule, schedule.initial, count, index, grads, state, first=True)
        return Moved(new, state.inner, rule if schedule.initial is schedule.rule else state.rule)

    def drawn(index: jax.Array, state: Moved) -> Moved:
        new, _ = _draw(schedule, schedule.rule, count, index, grads, state)
        moved = functools.partial(_transported, schedule, grads, new=new, old=state.basis)
        return Moved(new, lax.cond(count == 0, lambda inner: inner, moved, state.inner), state.rule)

    def either(index: jax.Array, state: Moved) -> Moved:
        return lax.cond(count == 0, initial, refresh, index, state)

    same = schedule.initial is schedule.rule and schedule.rule.keyed
    return _where_due(count % schedule.update_proj_gap == 0, drawn if same else either, index, state)


def _move_drawn(schedule: Schedule, count: jax.Array, index: jax.Array, grads: Any, state: Moved) -> Moved:
    """The same for bases that are functions of their key alone: only the inner state passes through
    the loop.
    """
    state = state._replace(basis=zero_bases(schedule, grads))  # for its shapes: the rule reads no more
    new, _ = _draw(schedule, schedule.rule, count, index, grads, state)

    def refresh(index: jax.Array, inner: Any) -> Any:
        old, _ = _draw(schedule, schedule.rule, count, index - 1, grads, state)
        return _transported(schedule, grads, inner, new, old)

    due = (count % schedule.update_proj_gap == 0) & (count > 0)
    return Moved(new, _where_due(due, refresh, index, state.inner), state.rule)


def _where_due(due: jax.Array, f: Callable[[jax.Array, Any], Any], index: jax.Array, state: Any) -> Any:
    """f(index, state) where due, else the state, in place: the decision that every step takes.

    It is a loop of one turn or none: a branch of a conditional that returns its operand copies it
      (six copies for two matrices on CPU), and the carry of a loop stays where it is. A compiler
      may take out of a loop what no turn changes, and so compute it at every step; that is why the
      index, of which all draws are made, is carried and changed, and why what reads gradients
      stands in a conditional within. A derivative, of a loss after some updates with respect to
      what came before them, is taken through a conditional: JAX has none backwards through a loop.
    """
    converted, consts = jax.closure_convert(f, index, state)
    return _in_place(converted, due, index, state, consts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _in_place(f: Callable[..., Any], due: jax.Array, index: jax.Array, state: Any, consts: Any) -> Any:
    def turn(carry: tuple[jax.Array, jax.Array, Any]) -> tuple[jax.Array, jax.Array, Any]:
        _, index, state = carry
        return jnp.zeros_like(due), index + 1, f(index, state, *consts)

    return lax.while_loop(lambda carry: carry[0], turn, (due, index, state))[2]


@_in_place.defjvp
def _in_place_jvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    def conditional(due: jax.Array, index: jax.Array, state: Any, consts: Any) -> Any:
        return lax.cond(due, lambda: f(index, state, *consts), lambda: state)

    return jax.jvp(conditional, primals, tangents)


def _transported(schedule: Schedule, grads: Any, inner: Any, new: Any, old: Any) -> Any:
    def rotation(grad: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return whole_along(grassmann.rotation(_widened(a), _widened(b)), (-2, -1), grad)

    return schedule.transport(inner, jax.tree.map(rotation, grads, new, old))


def _draw(
    schedule: Schedule,
    rule: SubspaceRule,
    count: jax.Array,
    index: jax.Array,
    grads: Any,
    state: Moved,
    first: bool = False,
) -> tuple[Any, Any]:
    """Apply a rule to every leaf: new bases, rounded to the type of the old ones, and rule
    states.
    """
    paths = jax.tree.leaves_with_path(grads)
    keys = _leaf_keys(jax.random.fold_in(typed_key(schedule.key), index), [path for path, _ in paths])
    treedef: Any = jax.tree.structure(grads)
    old_bases, rule_states = (treedef.flatten_up_to(x) for x in (state.basis, state.rule))
    inner_state = _per_leaf(state.inner, treedef)
    refreshes = [
        Refresh(
            key=keys[i],
            count=count,
            grad=grad,
            basis=_widened(old_bases[i]),
            inner_state=inner_state(i),
            rule_state=rule_states[i],
            first=first,
        )
        for i, (_, grad) in enumerate(paths)
    ]
    applied = _applied(rule, refreshes) if refreshes else []
    bases = [new.astype(old.dtype) for (new, _), old in zip(applied, old_bases, strict=True)]
    return treedef.unflatten(bases), treedef.unflatten([rule_state for _, rule_state in applied])


def _leaf_keys(key: jax.Array, paths: list[Any]) -> jax.Array:
    """A key for each leaf, made of its path alone, in one draw."""
    numbers = jnp.asarray([zlib.crc32(leaf_path(path).encode()) for path in paths], jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def _applied(rule: SubspaceRule, refreshes: list[Refresh]) -> list[tuple[jax.Array, Any]]:
    """What the rule makes of each leaf: at once for the single matrices that are alike."""

    def update(read: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        key, grad, basis, inner_state, rule_state = read
        known = refreshes[0]._replace(key=key, grad=grad, basis=basis, inner_state=inner_state, rule_state=rule_state)
        return rule.update(known)

    def alone(read: tuple[Any, ...]) -> bool:
        grad = read[1]
        return grad.ndim > 2 or not is_mesh_free(grad)

    reads = [(x.key, x.grad, x.basis, x.inner_state, x.rule_state) for x in refreshes]
    groups = alike(reads, jax.tree.structure([0] * len(reads)), alone)
    made = [
        update(read) if len(members) == 1 else jax.vmap(update)(read)
        for members, read in zip(groups.members, groups.join(reads), strict=True)
    ]
    applied: list[tuple[jax.Array, Any]] = groups.part(made)
    return applied


def _widened(basis: jax.Array) -> jax.Array:
    return basis.astype(wide(basis.dtype))


def checked_key(key: jax.Array | int) -> jax.Array | int:
    """The key, if it is an int, an integer scalar, a threefry key or the data of one; else an
    error.

    An int is made a key only when it is used: building an optimizer must not start JAX's backend.
    """
    needed = f"Give an int, or jax.random.key(seed, impl={_KEY_IMPLEMENTATION!r})."
    if not isinstance(key, jax.Array):
        try:
            return operator.index(key)
        except TypeError as error:
            raise ValueError(f"key is {key!r}. {needed}") from error
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if str(jax.random.key_impl(key)) != _KEY_IMPLEMENTATION:
            raise ValueError(
                f"key is of the {jax.random.key_impl(key)} implementation, whose bits depend on backend and sharding. "
                f"{needed}"
            )
    elif not (jnp.issubdtype(key.dtype, jnp.integer) and key.shape in ((), (2,))):
        raise ValueError(f"key is an array of shape {key.shape} and type {key.dtype}. {needed}")
    return key


def typed_key(key: jax.Array | int) -> jax.Array:
    """A threefry key from what `checked_key` lets pass."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array) and key.ndim == 1:
        return jax.random.wrap_key_data(key, impl=_KEY_IMPLEMENTATION)
    return jax.random.key(key, impl=_KEY_IMPLEMENTATION)


def _per_leaf(tree: Any, treedef: Any) -> Callable[[int], Any]:
    """A function of i: the tree with leaf i in place of every part that is shaped like
    `treedef`.
    """

    def is_part(x: Any) -> bool:
        return bool(jax.tree.structure(x) == treedef)

    parts = jax.tree.leaves(tree, is_leaf=is_part)
    outer: Any = jax.tree.structure(tree, is_leaf=is_part)
    leaves = [jax.tree.leaves(x) if is_part(x) else None for x in parts]
    return lambda i: outer.unflatten([part if x is None else x[i] for part, x in zip(parts, leaves, strict=True)])
