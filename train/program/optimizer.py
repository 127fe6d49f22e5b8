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
from grass_optax._inner.transforms import in_float32
from train.config.optimizers import (
    BASELINES,
    BESIDE_THE_SPLIT,
    UPDATE_PROJ_GAPS,
    WITHOUT_KEY,
    WITHOUT_RANK,
    WITHOUT_SCALE,
    OptimizerName,
)
from train.config.run import OptimizerFlags, ScheduleFlags

RANDOM_START = 0.8  # of the run: GoLore@20% of arXiv 2410.11289 draws random bases in the last fifth
MOMENTS = {"float32": None, "bfloat16": "bfloat16", "float8": "float8_e4m3fn"}
# Muon's update gets the root mean square of AdamW's, whatever the shape (arXiv 2502.16982), so that
# learning rate and scale mean for it what they mean for AdamW.
MUON_RMS = 0.2


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


def make_optimizer(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool = False
) -> optax.GradientTransformation:
    """Return the gradient clip followed by the optimizer, which may multiply one layer after the
    other.
    """
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, _method(config, schedule, seed, map_stacks))


def opt_state_shardings(tx: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Return the sharding of every array of the optimizer's state, given those of the
    parameters.
    """
    return grass_optax.state_shardings(tx, params, shardings)


def _method(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool
) -> optax.GradientTransformation:
    if config.optimizer in BASELINES:
        return _baseline(config, schedule)
    method: Callable[..., optax.GradientTransformation] = getattr(grass_optax, config.optimizer)
    adam = config.adam_learning_rate
    return method(
        make_schedule(config.learning_rate, schedule),
        weight_decay=config.weight_decay,
        weight_dimension_numbers=stacked_kernels,
        adam_learning_rate=None if adam is None else make_schedule(adam, schedule),
        mu_dtype=MOMENTS[config.mu_dtype],
        nu_dtype=MOMENTS[config.nu_dtype],
        **_options(config, schedule.steps, seed, map_stacks),
    )


def _options(config: OptimizerFlags, steps: int, seed: int, map_stacks: bool) -> dict[str, Any]:
    """Return the arguments that not every method takes."""
    name, options = config.optimizer, dict[str, Any]()
    if name not in WITHOUT_KEY:
        options["key"] = seed
    if name not in BESIDE_THE_SPLIT:
        options["map_stacks"] = map_stacks
    if name not in WITHOUT_SCALE:
        options["scale"] = config.scale
    if name not in WITHOUT_RANK:
        options["rank"] = config.rank
    if name in UPDATE_PROJ_GAPS:
        options["switch_every" if name == OptimizerName.BADAM else "update_proj_gap"] = config.update_proj_gap
    if name == OptimizerName.GOLORE:
        options["random_start"] = int(RANDOM_START * steps)
    return options


def _baseline(config: OptimizerFlags, schedule: ScheduleFlags) -> optax.GradientTransformation:
    """AdamW or Muon with two rates: a subspace method's `scale` is a ratio of rates too, and is
    half of any comparison.

    Moments are float32, as everywhere in the library, whatever the weights. What is not a kernel
    gets the same AdamW from both: `optax.contrib.muon` alone would give it Nesterov's.
    """

    def adamw(peak: float) -> optax.GradientTransformation:
        return optax.adamw(make_schedule(peak, schedule), weight_decay=config.weight_decay)

    def muon(peak: float) -> optax.GradientTransformation:
        return optax.contrib.muon(
            make_schedule(peak, schedule),
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=stacked_kernels,
            consistent_rms=MUON_RMS,
        )

    of_kernels = muon if config.optimizer == OptimizerName.MUON else adamw
    others = config.learning_rate if config.adam_learning_rate is None else config.adam_learning_rate
    transforms: dict[Hashable, optax.GradientTransformation] = {
        layouts.SPLIT: in_float32(of_kernels(config.scale * config.learning_rate)),
        layouts.ADAM: in_float32(adamw(others)),
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
