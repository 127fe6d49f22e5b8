"""A decision that costs nothing at the steps where nothing is due: a loop of at most one pass."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, Int, PyTree


def at_most_once(
    due: Bool[Array, ""],
    f: Callable[[Int[Array, ""], PyTree], PyTree],
    index: Int[Array, ""],
    state: PyTree,
) -> PyTree:
    """Return f(index, state) if `due`, else the state, in place.

    It is a `while_loop` with at most one iteration, because XLA:CPU copies operands that a branch
    of a `cond` returns unchanged (six copies for two matrices), but updates the carry of a loop in
    place. `index` is part of the carry, so that draws, which depend on it, are not hoisted out of
    the loop as invariants; what depends on the gradient alone belongs in a `cond` inside `f` for
    the same reason. `while_loop` has no reverse-mode derivative, so a custom JVP differentiates
    through an equivalent `cond`. All that `f` closes over becomes an argument of that JVP, integers
    too (`jax.closure_convert` leaves those where they are, and a scan around it fails).

    Args:
      due: whether to apply `f`.
      f: may close over arrays.
      index: what the draws of `f` depend on.
      state: of the same structure, shapes and types as the result of `f`.

    Returns:
      The new state.
    """
    program, shapes = jax.make_jaxpr(f, return_shape=True)(index, state)
    structure: Any = jax.tree.structure(shapes)

    def converted(index: Array, state: PyTree, consts: PyTree) -> PyTree:
        closed = ClosedJaxpr(program.jaxpr, consts)
        return structure.unflatten(jaxpr_as_fun(closed)(*jax.tree.leaves((index, state))))

    return _loop(converted, due, index, state, program.consts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loop(f: Callable[..., Any], due: Array, index: Array, state: PyTree, consts: PyTree) -> PyTree:
    def iteration(carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        _, index, state = carry
        return jnp.zeros_like(due), index + 1, f(index, state, consts)

    return lax.while_loop(lambda carry: carry[0], iteration, (due, index, state))[2]


@_loop.defjvp
def _loop_jvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    def conditional(due: Array, index: Array, state: PyTree, consts: PyTree) -> PyTree:
        return lax.cond(due, lambda: f(index, state, consts), lambda: state)

    return jax.jvp(conditional, primals, tangents)
