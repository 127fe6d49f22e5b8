"""One training step, as a pure function from state to state."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from train.program.frozen import Pattern, joined, parted
from train.program.micro_batches import Loss, ValueAndGrad
from train.program.task import Batch, Params


class TrainState(NamedTuple):
    """Everything that a run needs to resume."""

    step: Array  # (), int32: number of updates, without those that were skipped
    params: Params
    opt_state: optax.OptState  # of the parameters that are trained


class Report(NamedTuple):
    """Metrics of one update."""

    loss: Array  # (), float32, before the update
    learning_rate: Array  # (), float32
    is_skipped: Array  # (), bool
    is_spoiled: Array  # (), bool: the update is made, and the norm of its gradient is not finite


def first_state(params: Params, tx: optax.GradientTransformation, frozen: Pattern = ()) -> TrainState:
    """Return the state before the first update."""
    trained, _ = parted(params, frozen)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(trained))


def make_train_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    frozen: Pattern = (),
    value_and_grad: Callable[[Loss], ValueAndGrad] = jax.value_and_grad,
) -> Callable[..., tuple[TrainState, Report]]:
    """Return the training step: of a state, a batch, and the highest loss that is no spike.

    `schedule` is only used to report the learning rate, as the optimizer applies its own. Frozen
    parameters have no gradient and no optimizer state. `value_and_grad` may be that of
    `train.program.micro_batches`. If the loss or a gradient is not finite, or the loss is a spike,
    the state stays as it is, bit for bit.
    """

    def train_step(state: TrainState, batch: Batch, highest: float | Array = math.inf) -> tuple[TrainState, Report]:
        trained, fixed = parted(state.params, frozen)
        value, grads = value_and_grad(lambda trained, batch: loss(joined(trained, fixed), batch))(trained, batch)
        is_good = all_finite((value, grads)) & (value <= highest)

        def updated(state: TrainState) -> TrainState:
            trained, fixed = parted(state.params, frozen)
            updates, opt_state = tx.update(grads, state.opt_state, trained)
            with jax.numpy_dtype_promotion("standard"):  # rounded weights of 16 bits have updates of 32
                params = joined(optax.apply_updates(trained, updates), fixed)
            return TrainState(state.step + 1, params, opt_state)

        report = Report(value, jnp.asarray(schedule(state.step)), ~is_good, jnp.zeros((), bool))
        return lax.cond(is_good, updated, lambda state: state, state), report

    return train_step


def make_diagnosis(
    loss: Loss,
    tx: optax.GradientTransformation,
    read: Callable[[optax.OptState, optax.OptState, Params], Any],
    frozen: Pattern = (),
    value_and_grad: Callable[[Loss], ValueAndGrad] = jax.value_and_grad,
) -> Callable[[TrainState, Batch], Any]:
    """Return a function of a state and a batch to what `read` says of their update: of the states
    of the optimizer before and after it, and of its gradient.
    """

    def diagnose(state: TrainState, batch: Batch) -> Any:
        trained, fixed = parted(state.params, frozen)
        _, grads = value_and_grad(lambda trained, batch: loss(joined(trained, fixed), batch))(trained, batch)
        _, after = tx.update(grads, state.opt_state, trained)
        return read(state.opt_state, after, grads)

    return diagnose


def make_backward_step(
    step: Callable[[Params, optax.OptState, Batch], tuple[Params, optax.OptState, Any]],
    schedule: optax.Schedule,
    knows_norm: bool,
) -> Callable[[TrainState, Batch], tuple[TrainState, Report]]:
    """Return the training step around `train.program.optimizer.backward_step`.

    That skips an update whose loss is not finite. Only if it clips by two passes (`knows_norm`)
    does it know the norm of the gradient before the first layer is updated, and skips one whose
    gradient is not finite. Otherwise such a gradient spoils the state.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        params, opt_state, report = step(state.params, state.opt_state, batch)
        is_finite = jnp.isfinite(report.loss)
        is_norm_finite = jnp.isfinite(report.grad_norm)
        is_good = is_finite & is_norm_finite if knows_norm else is_finite
        rate = jnp.asarray(schedule(state.step))
        return TrainState(state.step + is_good.astype(jnp.int32), params, opt_state), Report(
            report.loss, rate, ~is_good, is_good & ~is_norm_finite
        )

    return train_step


def all_finite(tree: Any) -> Array:
    """Return whether every float in the tree is finite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()
