"""The optimizer of a run: the only file of the trainer that imports grass_optax."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import layouts
from train.config.optimizers import OPTIMIZERS, Optimizer
from train.config.run import OptimizerFlags, ScheduleFlags
from train.program.factors import lora

HEAD = "head"  # of a model for classification
MOMENTS = {"float32": None, "bfloat16": "bfloat16", "float8": "float8_e4m3fn"}
# Scales Muon's update to the root mean square of AdamW's for every shape (arXiv 2502.16982), so
# that learning rate and scale mean the same for both.
MUON_RMS = 0.2


def make_schedule(peak: float, config: ScheduleFlags) -> optax.Schedule:
    """Return the learning rate per step: linear warmup to `peak`, then cosine decay.

    The warmup starts one step above 0, as an update of size 0 would waste a batch.
    """
    warmup = config.warmup_steps
    schedule = optax.cosine_decay_schedule(peak, config.steps - warmup, config.final_lr_fraction)
    if warmup:
        rise = optax.linear_schedule(peak / warmup, peak * (1 + 1 / warmup), warmup)
        schedule = optax.join_schedules([rise, schedule], [warmup])
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


def make_optimizer(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool = False, is_narrow: bool = False
) -> optax.GradientTransformation:
    """Return the gradient clip followed by the optimizer.

    With `map_stacks`, the optimizer multiplies the layers of a stack one after the other. If
    weights are narrow, of 16 bits, their sums with updates are rounded stochastically.
    """
    tx = _clipped(config, schedule, seed, map_stacks)
    return optax.chain(tx, grass_optax.stochastic_rounding(seed)) if is_narrow else tx


def _clipped(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool
) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    row = OPTIMIZERS[config.optimizer]
    if row.name == "lora":
        return _lora(config, schedule, seed, clip)
    make = _baseline if row.is_baseline else _method
    return optax.chain(clip, make(row, config, schedule, seed, map_stacks))


def opt_state_shardings(tx: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Return the sharding of each array of the optimizer state, given those of the parameters."""
    return grass_optax.state_shardings(tx, params, shardings)


def _method(
    row: Optimizer, config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool
) -> optax.GradientTransformation:
    """Return a method of grass_optax."""
    method: Callable[..., optax.GradientTransformation] = getattr(grass_optax, row.name)
    adam = config.adam_learning_rate
    arguments = row.arguments(
        rank=config.rank,
        update_proj_gap=config.update_proj_gap,
        scale=config.scale,
        key=seed,
        map_stacks=map_stacks,
        basis=config.basis.partition(":")[0],
        blocks=config.blocks,
    )
    return method(
        make_schedule(config.learning_rate, schedule),
        weight_decay=config.weight_decay,
        weight_dimension_numbers=functools.partial(stacked_kernels, rank=config.rank if "rank" in row.takes else 0),
        adam_learning_rate=None if adam is None else make_schedule(adam, schedule),
        mu_dtype=MOMENTS[config.mu_dtype],
        nu_dtype=MOMENTS[config.nu_dtype],
        **arguments,
        **{name: int(fraction * schedule.steps) for name, fraction in row.run_fractions.items()},
    )


def _baseline(row: Optimizer, config: OptimizerFlags, schedule: ScheduleFlags, *_: Any) -> optax.GradientTransformation:
    """Return AdamW or Muon with two learning rates, as a subspace method's `scale` is a ratio of
    rates too and half of any comparison.

    Moments are float32 whatever the weights, as everywhere in the library. Parameters that are not
    kernels get the same AdamW from both: `optax.contrib.muon` alone would give them Nesterov's.
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

    of_kernels = {"adamw": adamw, "muon": muon}[row.name]
    others = config.learning_rate if config.adam_learning_rate is None else config.adam_learning_rate
    transforms: dict[Hashable, optax.GradientTransformation] = {
        layouts.SPLIT: grass_optax.in_float32(of_kernels(config.scale * config.learning_rate)),
        layouts.ADAM: grass_optax.in_float32(adamw(others)),
    }
    return optax.partition(transforms, layouts.split_labels(0, stacked_kernels))


def _lora(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, clip: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return LoRA of the stacked kernels. A new head is trained whole; all others stay.

    The gradients that are clipped are those of the factors, and those of the head.
    """
    adamw = optax.chain(
        clip, optax.adamw(make_schedule(config.learning_rate, schedule), weight_decay=config.weight_decay)
    )
    transforms: dict[Hashable, optax.GradientTransformation] = {
        layouts.SPLIT: lora(adamw, rank=config.rank, scale=config.scale, seed=seed),
        layouts.ADAM: optax.set_to_zero(),
        HEAD: grass_optax.in_float32(adamw),
    }

    def labels(params: Any) -> Any:
        split = layouts.split_labels(0, stacked_kernels)(params)
        return {name: HEAD if name == HEAD else label for name, label in split.items()}

    return optax.partition(transforms, labels)


def stacked_kernels(params: Any, rank: int = 0) -> Any:
    """Mark the kernels (layers, in, out) as stacks of matrices; everything else is left to Adam, as
    are kernels that have no subspace of a rank: few grouped keys at a high rank.
    """

    def numbers(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        is_kernel = jax.tree_util.keystr(path[-1:], simple=True) == "kernel" and leaf.ndim == 3
        return MuonDimensionNumbers(1, 2) if is_kernel and min(leaf.shape[1:]) > rank else None

    return jax.tree.map_with_path(numbers, params)


def state_bytes(tx: optax.GradientTransformation, params: Any) -> int:
    """Return the bytes of the optimizer state, from arrays or their shapes."""
    return int(grass_optax.memory_report(tx, params).total_bytes)
