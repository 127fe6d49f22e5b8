"""What is known about the states of inner optimizers: where in them the moments are.

Transports move the moments with the basis, and some rules and residual transformations read the first one. They meet
the state of any Optax transformation; those that hold moments of the gradient's coordinates are listed here.

Members: map_moments, first_moment.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from optax.contrib import MuonState

# The field that holds a first moment, an average of gradients or a sum of them with decaying weights.
_FIRST_MOMENTS = {
    optax.ScaleByAdamState: "mu",
    optax.ScaleByLionState: "mu",
    optax.EmaState: "ema",
    optax.TraceState: "trace",
    MuonState: "mu",
}
# States that hold nothing per coordinate, so that moving the basis leaves them alone.
_WITHOUT_COORDINATES = (optax.EmptyState, optax.ScaleByScheduleState)


def map_moments(
    first: Callable[[Any], Any], adam: Callable[[optax.ScaleByAdamState], optax.ScaleByAdamState], inner_state: Any
) -> Any:
    """`adam` applied to Adam's states, `first` to the first moment of others, through chains.

    Raises:
      TypeError: a state of which it is not known what its arrays mean.
    """
    if isinstance(inner_state, optax.ScaleByAdamState):
        return adam(inner_state)
    if type(inner_state) in _FIRST_MOMENTS:
        field = _FIRST_MOMENTS[type(inner_state)]
        return inner_state._replace(**{field: first(getattr(inner_state, field))})
    if isinstance(inner_state, _WITHOUT_COORDINATES):
        return inner_state
    if type(inner_state) is tuple:  # of optax.chain
        return tuple(map_moments(first, adam, state) for state in inner_state)
    raise TypeError(
        f"cannot rotate the inner state {type(inner_state).__name__}: known are {_known()}, chains of them and states "
        "without coordinates. Use transport.keep or transport.reset, or pass your own function "
        "(inner_state, rotation) -> inner_state."
    )


def first_moment(inner_state: Any, b1: ArrayLike) -> Any:
    """The exponential moving average M <- b1 M + (1 - b1) g in an inner state, or what it is for a trace, which sums
    without the (1 - b1).

    Raises:
      TypeError: a state without a first moment.
    """
    if isinstance(inner_state, optax.TraceState):
        return jax.tree.map(lambda x: (1 - jnp.asarray(b1, x.dtype)) * x, inner_state.trace)
    if type(inner_state) in _FIRST_MOMENTS:
        return getattr(inner_state, _FIRST_MOMENTS[type(inner_state)])
    if type(inner_state) is tuple:  # of optax.chain
        for state in inner_state:
            if type(state) in _FIRST_MOMENTS or type(state) is tuple:
                return first_moment(state, b1)
    raise TypeError(
        f"the inner state {type(inner_state).__name__} has no first moment that is known: this method reads one. Known "
        f"are {_known()} and chains of them."
    )


def _known() -> str:
    return ", ".join(state.__name__ for state in _FIRST_MOMENTS)
