"""The optimizer of a run. The only file that knows grass_optax."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import layouts
from train.config import OptimizerFlags, OptimizerName, ScheduleFlags

SUBSPACE_METHODS: dict[OptimizerName, Callable[..., optax.GradientTransformation]] = {
    OptimizerName.GRASSJUMP: grass_optax.grassjump,
    OptimizerName.GRASSWALK: grass_optax.grasswalk,
}


def make_schedule(peak: float, config: ScheduleFlags) -> optax.Schedule:
    """Return the learning rate as a function of the step: a line up to `peak`, then a cosine."""
    warmup, steps, last = config.warmup_steps, config.steps, config.final_lr_fraction

    def schedule(count: ArrayLike) -> Array:
        step = jnp.asarray(count, jnp.float32)
        # From one step above 0: an update by nothing would waste a batch.
        rise = (step + 1) / max(warmup, 1)
        fallen = jnp.clip((step - warmup) / (steps - warmup), 0, 1)
        fall = last + (1 - last) * (1 + jnp.cos(jnp.pi * fallen)) / 2
        return peak * jnp.where(step < warmup, rise, fall)

    return schedule


def make_optimizer(config: OptimizerFlags, schedule: ScheduleFlags, seed: int) -> optax.GradientTransformation:
    """Return the gradient clip followed by the optimizer."""
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, _method(config, schedule, seed))


def _method(config: OptimizerFlags, schedule: ScheduleFlags, seed: int) -> optax.GradientTransformation:
    if config.optimizer == OptimizerName.ADAMW:
        return _adamw(config, schedule)
    adam = config.adam_learning_rate
    return SUBSPACE_METHODS[config.optimizer](
        make_schedule(config.learning_rate, schedule),
        config.rank,
        config.update_proj_gap,
        scale=config.scale,
        weight_decay=config.weight_decay,
        weight_dimension_numbers=stacked_kernels,
        adam_learning_rate=None if adam is None else make_schedule(adam, schedule),
        key=seed,
    )


def _adamw(config: OptimizerFlags, schedule: ScheduleFlags) -> optax.GradientTransformation:
    """AdamW with two rates: a subspace method's `scale` is a ratio of rates too, and is half of any comparison."""
    kernels = config.scale * config.learning_rate
    others = config.learning_rate if config.adam_learning_rate is None else config.adam_learning_rate
    transforms: dict[Hashable, optax.GradientTransformation] = {
        label: optax.adamw(make_schedule(peak, schedule), weight_decay=config.weight_decay)
        for label, peak in ((layouts.SPLIT, kernels), (layouts.ADAM, others))
    }
    return optax.partition(transforms, layouts.split_labels(0, stacked_kernels))


def stacked_kernels(params: Any) -> Any:
    """Mark the kernels (layers, in, out) as stacks of matrices; everything else is Adam's."""

    def numbers(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        is_kernel = jax.tree_util.keystr(path[-1:], simple=True) == "kernel"
        return MuonDimensionNumbers(1, 2) if is_kernel and leaf.ndim == 3 else None

    return jax.tree.map_with_path(numbers, params)


def state_bytes(tx: optax.GradientTransformation, params: Any) -> int:
    """Return the bytes of the optimizer's state, from arrays or their shapes."""
    return int(grass_optax.memory_report(tx, params).total_bytes)
