"""One training step, as a pure function from state to state.

Shapes: B batch, T positions; a window holds T + 1 tokens, of which T are predicted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from models import Llama, LlamaConfig
from models.blocks import ANYWHERE, Placement

Params = Any  # nested dicts of arrays


class TrainState(NamedTuple):
    """Everything that a run needs to resume."""

    step: Array  # (), int32: number of updates
    params: Params
    opt_state: optax.OptState


class Report(NamedTuple):
    """Metrics of one update."""

    loss: Array  # (), float32: mean nats per token, before the update
    learning_rate: Array  # (), float32


def structure(config: LlamaConfig) -> nnx.GraphDef[Llama]:
    """Return the model without its arrays; `nnx.merge` it with parameters to get the model."""
    return nnx.graphdef(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))


def abstract_params(config: LlamaConfig) -> Params:
    """Return the shapes of the parameters."""
    return jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(Llama(config, rngs=nnx.Rngs(0)), nnx.Param)))


def make_initial_state(config: LlamaConfig, tx: optax.GradientTransformation, seed: int) -> Callable[[], TrainState]:
    """Return the function that draws the initial state."""

    def initial_state() -> TrainState:
        params = nnx.to_pure_dict(nnx.state(Llama(config, rngs=nnx.Rngs(seed)), nnx.Param))
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    return initial_state


def token_losses(graphdef: nnx.GraphDef[Llama], params: Params, windows: Array, place: Placement = ANYWHERE) -> Array:
    """Return the cross-entropy (B, T) of each token given those before it, in float32 nats."""
    logits = nnx.merge(graphdef, params)(windows[:, :-1], place)
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), windows[:, 1:])


def make_train_step(
    graphdef: nnx.GraphDef[Llama],
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    place: Placement = ANYWHERE,
) -> Callable[[TrainState, Array], tuple[TrainState, Report]]:
    """Return the training step.

    `schedule` is only used to report the learning rate, as the optimizer applies its own; `place`
    is passed to the model.
    """

    def mean_loss(params: Params, windows: Array) -> Array:
        return token_losses(graphdef, params, windows, place).mean()

    def train_step(state: TrainState, windows: Array) -> tuple[TrainState, Report]:
        loss, grads = jax.value_and_grad(mean_loss)(state.params, windows)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        report = Report(loss, jnp.asarray(schedule(state.step)))
        return TrainState(state.step + 1, params, opt_state), report

    return train_step


def all_finite(tree: Any) -> Array:
    """Return whether every float in the tree is finite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()
