"""The optimizer of a run, from its flags."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import grass_optax
from grass_optax import layouts, residual, subspaces, transport
from train.config.optimizer_flags import WITH_JUMPS, Decay, OptimizerFlags
from train.config.optimizers import OPTIMIZERS, Optimizer
from train.config.run import UserError
from train.config.schedule import CONSTANT, WSD, ScheduleFlags
from train.program.factors import lora
from train.program.kernels import kernel_labels, stacked_kernels
from train.program.previous_norm import place_for_norm, with_norm
from train.program.task import Batch, Params, Parts

HEAD = "head"  # of a model for classification
PREVIOUS = "previous"
# Types of moments and bases; None is that of the library, float32 here.
TYPES = {"float32": None, "bfloat16": "bfloat16", "float8": "float8_e4m3fn"}
_TURNS = ("step_size", "walk_rank", "tracking_rank")
# Scales Muon's update to the root mean square of AdamW's for every shape (arXiv 2502.16982), so
# that learning rate and scale mean the same for both.
MUON_RMS = 0.2


def make_schedule(peak: float, config: ScheduleFlags) -> optax.Schedule:
    """Return the learning rate of each update, counted from 0.

    The first rate is one step above 0, as an update of size 0 would waste a batch. The last update
    of the warm-up is at the peak, and the last update of the run at the final fraction of it. A run
    of one update is at the peak.
    """
    rise = max(config.warmup_updates - 1, 0)
    fall = max(config.steps - 1 - rise, 1)  # from the update at the peak to the last one
    last = peak if config.schedule == CONSTANT else config.final_lr_fraction * peak
    after_peak = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, fall, config.final_lr_fraction),
        "linear": lambda: optax.linear_schedule(peak, last, fall),
        WSD: lambda: optax.linear_schedule(peak, last, config.cooldown_updates, fall - config.cooldown_updates),
        CONSTANT: lambda: optax.constant_schedule(peak),
    }[config.schedule]()
    schedules, starts = [after_peak], []
    if rise:
        schedules.insert(0, optax.linear_schedule(peak / (rise + 1), peak, rise))
        starts.append(rise)
    if config.steps > 1:  # what a line rounds to is not its end
        schedules.append(optax.constant_schedule(last))
        starts.append(config.steps - 1)
    schedule = optax.join_schedules(schedules, starts)
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


def make_optimizer(
    config: OptimizerFlags,
    schedule: ScheduleFlags,
    seed: int,
    map_stacks: bool = False,
    is_narrow: bool = False,
    is_int8: bool = False,
) -> optax.GradientTransformation:
    """Return the gradient clip followed by the optimizer. The state has a place for the norm of the
    last gradient, if it is clipped by that.

    With `map_stacks`, the optimizer multiplies the layers of a stack one after the other. If
    weights are narrow, of 16 bits or kernels in 8, their sums with updates are rounded
    stochastically.
    """
    tx = _clipped(config, schedule, seed, map_stacks)
    tx = optax.chain(tx, grass_optax.stochastic_rounding(seed)) if is_narrow else tx
    tx = grass_optax.in_int8(tx, seed) if is_int8 else tx
    return optax.chain(place_for_norm(), tx) if config.clip_by == PREVIOUS else tx


def _clipped(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool
) -> optax.GradientTransformation:
    clip, row = gradient_clip(config), OPTIMIZERS[config.optimizer]
    if row.name == "lora":
        return _lora(config, schedule, seed, clip)
    make = {"grass_optax": _method, "axes": _assembled}.get(row.package, _baseline)
    return optax.chain(clip, make(row, config, schedule, seed, map_stacks))


def gradient_clip(config: OptimizerFlags) -> optax.GradientTransformation:
    """Return the clip of the gradient by its global norm."""
    return optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()


def backward_step(
    parts: Parts, config: OptimizerFlags, schedule: ScheduleFlags, seed: int, **options: bool
) -> Callable[[Params, optax.OptState, Batch], tuple[Params, optax.OptState, Any]]:
    """Return the step that updates each layer inside the backward pass; `options` are those of
    `make_optimizer`, whose state it has.
    """
    tx = make_optimizer(dataclasses.replace(config, clip=0.0), schedule, seed, **options)
    clip = grass_optax.Clip(max_norm=config.clip, by=config.clip_by) if config.clip else None
    loss = grass_optax.ScannedLoss(embed=parts.begin, block=parts.layer, head=parts.end)
    step = grass_optax.update_in_backward(loss, tx, clip=clip, keep_every=config.keep_every)
    return with_norm(step) if config.clip_by == PREVIOUS else step


def opt_state_shardings(tx: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Return the sharding of each array of the optimizer state, given those of the parameters."""
    return grass_optax.state_shardings(tx, params, shardings)


def _method(
    row: Optimizer, config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool
) -> optax.GradientTransformation:
    """Return a method of grass_optax."""
    method: Callable[..., optax.GradientTransformation] = getattr(grass_optax, row.name)
    arguments = row.arguments(
        rank=config.rank,
        update_proj_gap=config.update_proj_gap,
        scale=config.scale,
        key=seed,
        map_stacks=map_stacks,
        basis=config.basis.partition(":")[0],
        blocks=config.blocks,
        store_basis=config.store_basis,
        **{name: getattr(config, name) for name in (*_TURNS, "completion", "max_norm_growth")},
    )
    return method(
        make_schedule(config.learning_rate, schedule),
        weight_dimension_numbers=functools.partial(stacked_kernels, rank=config.rank if "rank" in row.takes else 0),
        **_adam_and_decay(config, schedule),
        mu_dtype=TYPES[config.mu_dtype],
        nu_dtype=TYPES[config.nu_dtype],
        **({"basis_dtype": TYPES[config.basis_dtype]} if row.splits and row.stores_bases else {}),
        **arguments,
        **{name: int(fraction * schedule.steps) for name, fraction in row.run_fractions.items()},
    )


def _assembled(
    row: Optimizer, config: OptimizerFlags, schedule: ScheduleFlags, seed: int, map_stacks: bool
) -> optax.GradientTransformation:
    """Return the method that --rule, --transport and --residual make, as in the papers' ablation.

    A subspace that moves, or stays, starts where that of GrassWalk and SubTrack++ does.
    """
    del row
    b1, b2 = 0.9, 0.999
    basis: Any = config.basis.partition(":")[0]
    walk = functools.partial(subspaces.random_walk, config.step_size, config.walk_rank)
    rules: dict[str, Callable[[], subspaces.SubspaceRule]] = {
        "random_jump": lambda: subspaces.random_jump(basis, config.blocks),
        "random_walk": walk,
        WITH_JUMPS: lambda: subspaces.interleave(walk(), subspaces.random_jump(), config.jump_every),
        "tracking": lambda: subspaces.tracking(config.step_size, config.tracking_rank),
        "svd": subspaces.svd,
        "frozen": subspaces.frozen,
    }
    transports: dict[str, Callable[[], transport.Transport]] = {
        "rotate": lambda: transport.rotate(b1, b2, config.completion),
        "keep": transport.keep,
        "reset": transport.reset,
        "first_moment_only": transport.first_moment_only,
    }
    residuals: dict[str, Callable[[], optax.GradientTransformation | None]] = {
        "recovery": lambda: residual.recovery(config.max_norm_growth),
        "dropped": lambda: None,
        "sign": residual.sign,
    }
    initial = None if config.rule in ("random_jump", "svd") else subspaces.range_finder()
    kernels = functools.partial(stacked_kernels, rank=config.rank)
    direction = grass_optax.assemble(
        rules[config.rule](), transports[config.transport](), residuals[config.residual](),
        initial=initial, rank=config.rank, update_proj_gap=config.update_proj_gap, scale=config.scale, b1=b1, b2=b2,
        mu_dtype=TYPES[config.mu_dtype], nu_dtype=TYPES[config.nu_dtype], basis_dtype=TYPES[config.basis_dtype],
        map_stacks=map_stacks, store_basis=config.store_basis, weight_dimension_numbers=kernels, key=seed,
    )  # fmt: skip
    rate, labels = make_schedule(config.learning_rate, schedule), layouts.split_labels(config.rank, kernels)
    return grass_optax.with_rates(direction, rate, labels=labels, **_adam_and_decay(config, schedule))


def _adam_and_decay(config: OptimizerFlags, schedule: ScheduleFlags) -> dict[str, Any]:
    """Return the arguments that all optimizers but LoRA share, beside the learning rate."""
    adam = config.adam_learning_rate
    return {
        "adam_learning_rate": None if adam is None else make_schedule(adam, schedule),
        "weight_decay": config.weight_decay,
        "mask": _decaying(config.decay),
    }


def _baseline(row: Optimizer, config: OptimizerFlags, schedule: ScheduleFlags, *_: Any) -> optax.GradientTransformation:
    """Return AdamW or Muon with two learning rates, as a subspace method's `scale` is a ratio of
    rates too and half of any comparison.

    Moments are float32 whatever the weights, as everywhere in the library. Parameters that are not
    kernels get the same AdamW from both: `optax.contrib.muon` alone would give them Nesterov's.
    """
    of_kernels = {"adamw": optax.scale_by_adam, "muon": _scale_by_muon}[row.name]
    directions: dict[Hashable, optax.GradientTransformation] = {
        layouts.SPLIT: grass_optax.in_float32(optax.chain(of_kernels(), optax.scale(config.scale))),
        layouts.ADAM: grass_optax.in_float32(optax.scale_by_adam()),
    }
    rate, both = make_schedule(config.learning_rate, schedule), optax.partition(directions, kernel_labels)
    return grass_optax.with_rates(both, rate, labels=kernel_labels, **_adam_and_decay(config, schedule))


def _scale_by_muon() -> optax.GradientTransformation:
    """Return the direction of Muon, which Optax scales to the shapes only with a learning rate."""
    muon = optax.contrib.muon(1.0, muon_weight_dimension_numbers=stacked_kernels, consistent_rms=MUON_RMS)
    return optax.chain(muon, optax.scale(-1.0))


def _lora(
    config: OptimizerFlags, schedule: ScheduleFlags, seed: int, clip: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return LoRA of the stacked kernels. A new head is trained whole; all others stay.

    The gradients that are clipped are those of the factors, and those of the head. The factors
    decay, not the kernels.
    """

    def adamw(peak: float, decay: float) -> optax.GradientTransformation:
        return optax.chain(clip, optax.adamw(make_schedule(peak, schedule), weight_decay=decay))

    rate, decay = config.learning_rate, config.weight_decay
    of_head = adamw(config.adam_learning_rate or rate, decay if config.decay == "all" else 0.0)
    transforms: dict[Hashable, optax.GradientTransformation] = {
        layouts.SPLIT: lora(adamw(rate, decay), rank=config.rank, scale=config.scale, seed=seed),
        layouts.ADAM: optax.set_to_zero(),
        HEAD: grass_optax.in_float32(of_head),
    }

    def labels(params: Any) -> Any:
        named = {name: HEAD if name == HEAD else label for name, label in kernel_labels(params).items()}
        if not {layouts.SPLIT, HEAD} & set(jax.tree.leaves(named)):
            raise UserError(
                "--optimizer lora trains kernels and a new head, of which --freeze leaves none: freeze less."
            )
        return named

    return optax.partition(transforms, labels)


def _decaying(decay: Decay) -> Callable[[Any], Any]:
    """Return the function that marks the parameters that decay."""
    return lambda params: jax.tree.map(lambda label: decay == "all" or label == layouts.SPLIT, kernel_labels(params))


def state_bytes(tx: optax.GradientTransformation, params: Any) -> int:
    """Return the bytes of the optimizer state, from arrays or their shapes."""
    return int(grass_optax.memory_report(tx, params).total_bytes)
