"""Where the moments are in the states of inner optimizers.

Transports move the moments with the basis, and some rules and residual transformations read the
first one. They meet the state of any Optax transformation; those that hold moments of the
gradient's coordinates are listed here. Moments in narrow types are decoded for them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import PyTree
from optax.contrib import MuonState

from grass_optax._inner.narrow import CompressedState, decoded, encoded

# The field that holds a first moment, an average of gradients or a sum of them with decaying
# weights.
_FIRST_MOMENTS = {
    optax.ScaleByAdamState: "mu",
    optax.ScaleByLionState: "mu",
    optax.EmaState: "ema",
    optax.TraceState: "trace",
    MuonState: "mu",
}
# Betas are the same up to the rounding of 1 - b2 in float32, 6e-8 of 1e-3.
_BETA_TOLERANCE = 1e-3
# States that hold nothing per coordinate, so that moving the basis leaves them alone.
_WITHOUT_COORDINATES = (optax.EmptyState, optax.ScaleByScheduleState)


def map_moments(
    inner_state: PyTree,
    first: Callable[[PyTree], PyTree],
    second: Callable[[optax.ScaleByAdamState, PyTree], PyTree] | None = None,
) -> PyTree:
    """Every known state with other moments, through chains.

    Args:
      inner_state: of any Optax transformation.
      first: a function of a first moment to the new one.
      second: a function of an Adam state and its new first moment to the new second moment, which
        is unchanged without it.

    Raises:
      TypeError: the meaning of a state's arrays is not known.
    """

    def moved(state: Any) -> Any:
        if isinstance(state, CompressedState):
            return encoded(moved(decoded(state)), state, moved=True)
        if type(state) not in _FIRST_MOMENTS:
            raise TypeError(_unknown("rotate", state, _FIRST_MOMENTS))
        field = _FIRST_MOMENTS[type(state)]
        new = first(getattr(state, field))
        if second is not None and isinstance(state, optax.ScaleByAdamState):
            return state._replace(mu=new, nu=second(state, new))
        return state._replace(**{field: new})

    return _through_chains(moved, inner_state)


def require_betas(
    tx: optax.GradientTransformation,
    state: PyTree,
    params: optax.Params,
    betas: tuple[ArrayLike, ArrayLike],
) -> None:
    """Compare the betas of every Adam in an inner optimizer with those that a transport was given.

    Optax's transformations hide their constants. But a gradient of 0 takes moments of 1 to b1 and
    b2, whatever clips or scales it on the way to Adam.

    Raises:
      ValueError: they differ.
    """
    if not _adams(state):
        return

    def with_moments_of_one(state: Any) -> Any:
        if not isinstance(state, optax.ScaleByAdamState):
            return state
        mu, nu = (jax.tree.map(jnp.ones_like, x) for x in (state.mu, state.nu))
        return state._replace(count=jnp.zeros_like(state.count), mu=mu, nu=nu)

    with jax.ensure_compile_time_eval():
        zeros = jax.tree.map(lambda x: jnp.zeros((1,) * x.ndim, x.dtype), params)
        ones = jax.tree.map(with_moments_of_one, tx.init(zeros), is_leaf=_is_adam)
        try:
            _, state = optax.with_extra_args_support(tx).update(zeros, ones, zeros)
        except (KeyError, TypeError):
            return  # it needs extra arguments, which only the user's update has
        for adam in _adams(state):
            for name, moment, beta in zip(("b1", "b2"), (adam.mu, adam.nu), betas, strict=True):
                for x in jax.tree.leaves(moment)[:1]:
                    _require_beta(name, jnp.max(x), jnp.asarray(beta))


def require_direction(tx: optax.GradientTransformation, params: optax.Params) -> None:
    """Refuse an inner optimizer that goes downhill by itself, as `optax.adam(1e-3)` does.

    Optax's transformations do not say so. But what such an optimizer makes of a gradient of 1 is
    negative.

    Raises:
      ValueError: `tx` negates its updates.
    """
    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda x: jnp.ones((1,) * x.ndim, x.dtype), params)
        try:
            updates, _ = optax.with_extra_args_support(tx).update(ones, tx.init(ones), ones)
        except (KeyError, TypeError):
            return  # it needs extra arguments, which only the user's update has
        leaves = [jnp.max(x) for x in jax.tree.leaves(updates)]
    try:
        is_negated = bool(leaves) and all(float(x) < 0 for x in leaves)
    except jax.errors.ConcretizationTypeError:
        return  # traced, as by optax.inject_hyperparams
    if is_negated:
        raise ValueError(
            "inner makes a negative update of a gradient of 1. It has a sign of its own, as optax.adam(1e-3) and "
            "optax.lion(1e-3) have, so the loss would rise. Give the direction alone, such "
            "as optax.scale_by_adam() or optax.scale_by_lion()."
        )


def _require_beta(name: str, own: jax.Array, rotated: jax.Array) -> None:
    try:
        inner, transport = float(own), float(rotated)
    except jax.errors.ConcretizationTypeError:
        return  # traced, as by optax.inject_hyperparams: there is no number to compare
    if abs(inner - transport) > _BETA_TOLERANCE * (1 - transport):
        raise ValueError(
            f"the inner optimizer has {name} = {inner:.4g}, but the transport rotates its moments "
            f"with {name} = {transport:.4g}. Give both the same: the {name} of a method is for its "
            "transport too, whatever `inner` is."
        )


def _is_adam(state: Any) -> bool:
    return isinstance(state, optax.ScaleByAdamState)


def _adams(state: PyTree) -> list[optax.ScaleByAdamState]:
    """The states of Adam in an inner state. Narrow moments are the library's own, and left out."""

    def is_leaf(x: Any) -> bool:
        return _is_adam(x) or isinstance(x, CompressedState)

    return [x for x in jax.tree.leaves(state, is_leaf=is_leaf) if _is_adam(x)]


def cleared(inner_state: Any) -> Any:
    """Every known state as it was at the start, through chains.

    Raises:
      TypeError: a state may start from something other than zero.
    """

    def zero(state: Any) -> Any:
        if isinstance(state, CompressedState):
            return encoded(zero(decoded(state)), state, moved=True)
        if isinstance(state, MuonState):  # its coefficients are no moments
            return state._replace(count=jnp.zeros_like(state.count), mu=jax.tree.map(jnp.zeros_like, state.mu))
        if type(state) in _FIRST_MOMENTS or isinstance(state, optax.FactoredState):
            return jax.tree.map(jnp.zeros_like, state)
        raise TypeError(_unknown("reset", state, (*_FIRST_MOMENTS, optax.FactoredState)))

    return _through_chains(zero, inner_state)


def first_moment(inner_state: Any, b1: ArrayLike) -> Any:
    """Return the moving average M <- b1 M + (1 - b1) g of an inner state.

    For `optax.trace`, which sums without the (1 - b1), it is (1 - b1) times its sum.

    Raises:
      TypeError: the state has no first moment.
    """
    if isinstance(inner_state, CompressedState):
        return first_moment(decoded(inner_state), b1)
    if isinstance(inner_state, optax.TraceState):
        return jax.tree.map(lambda x: (1 - jnp.asarray(b1, x.dtype)) * x, inner_state.trace)
    if type(inner_state) in _FIRST_MOMENTS:
        return getattr(inner_state, _FIRST_MOMENTS[type(inner_state)])
    for state in inner_state if type(inner_state) is tuple else ():  # of optax.chain
        if any(type(part) in (*_FIRST_MOMENTS, CompressedState) for part in parts_of_chain(state)):
            return first_moment(state, b1)
    raise TypeError(
        f"the inner state {type(inner_state).__name__} has no first moment that is known, and this method reads one. "
        f"Known are {_names(_FIRST_MOMENTS)} and chains of them: give such an `inner`."
    )


def adam_state(inner_state: Any) -> optax.ScaleByAdamState:
    """The state of Adam in an inner state, moments in float32 at least.

    Raises:
      TypeError: there is none.
    """
    for state in parts_of_chain(inner_state):
        plain = decoded(state) if isinstance(state, CompressedState) else state
        if _is_adam(plain):
            return plain
    raise TypeError(
        f"the inner state {type(inner_state).__name__} is not Adam's, and this residual reads Adam's moments. Give an "
        "`inner` that is optax.scale_by_adam, or a chain with it."
    )


def parts_of_chain(state: Any) -> list[Any]:
    """The states in a chain of chains."""
    return [x for part in state for x in parts_of_chain(part)] if type(state) is tuple else [state]


def _through_chains(f: Callable[[Any], Any], state: Any) -> Any:
    """`f` of each state that holds something per coordinate."""
    if type(state) is tuple:  # of optax.chain
        return tuple(_through_chains(f, part) for part in state)
    return state if isinstance(state, _WITHOUT_COORDINATES) else f(state)


def _unknown(verb: str, state: Any, known: Iterable[type]) -> str:
    return (
        f"cannot {verb} the inner state {type(state).__name__}: known are {_names(known)}, chains of them and states "
        "without coordinates. Give another `inner`, or compose the method with split_by_subspace and transport.keep() "
        "or a function (inner_state, rotation) -> inner_state of your own."
    )


def _names(states: Iterable[type]) -> str:
    return ", ".join(state.__name__ for state in states)
