"""The configuration of a plan: the flags that decide the cost of a step, and the devices."""

import dataclasses
from pathlib import Path
from typing import Literal

from train.config.machine_flags import DeviceFlags
from train.config.optimizer_flags import OptimizerFlags
from train.config.presets import PresetName
from train.config.run import BATCHES, OTHER_BATCH, DataFlags, ModelFlags, Pretrain, defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchFlags:
    """The batch."""

    batch_size: int | None = None
    """Windows of text per update; by default that of pretrain, or one per part and device."""
    accumulate: int = 1
    """Compute each batch in this many parts, to save memory; it must divide --batch-size."""
    seq_len: int = DataFlags.seq_len
    """Tokens predicted per window; 256 by default for models other than tiny."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """The plan."""

    memory: str = ""
    """Memory of a device, such as 24GiB or 80GB: does the step fit, and what would change that?"""
    remedies: bool = True
    """If the step does not fit, also plan each change of flags that saves memory."""
    topology: str = ""
    """TPUs to compile for, such as v6e:1x1 or v5e:8x8; needs libtpu. Default: simulated CPUs."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: compile for the GPUs of this machine instead of simulated CPU devices."""
    json: Path | None = None
    """Also write the plan to this file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Report the memory per device and the traffic between devices of a training step.

    Compiles the step of `pretrain` for one device or those of --mesh, which need not be present;
    nothing is run. With --memory, says whether the step fits, and what to change if it does not;
    the exit status is then 4. The defaults below are for tiny and grassjump.
    """

    preset: PresetName | None = None
    """The settings of a paper, which other flags override: see the command presets."""
    plan: PlanFlags = PlanFlags()
    model: ModelFlags = dataclasses.field(default_factory=ModelFlags)
    batch: BatchFlags = BatchFlags()
    optimizer: OptimizerFlags = dataclasses.field(default_factory=OptimizerFlags)
    devices: DeviceFlags = dataclasses.field(default_factory=DeviceFlags)


def plan_defaults(parsed: Plan) -> Plan:
    """Return the defaults that follow from the model and optimizer of `parsed`."""
    run = defaults(Pretrain(run_dir=Path(), preset=parsed.preset, model=parsed.model, optimizer=parsed.optimizer))
    batch = BatchFlags(seq_len=run.data.seq_len)
    if parsed.preset is not None:
        batch = dataclasses.replace(batch, batch_size=run.data.batch_size, accumulate=run.data.accumulate)
    return Plan(preset=parsed.preset, model=run.model, batch=batch, optimizer=run.optimizer)


def run_of_plan(config: Plan, shards: int) -> Pretrain:
    """Return the run to plan, on a mesh that shards a batch over `shards` devices."""
    batch = config.batch
    batch_size = batch.batch_size
    if batch_size is None and config.devices.mesh:
        batch_size = shards * batch.accumulate
    elif batch_size is None:
        batch_size = BATCHES.get(config.model.model, OTHER_BATCH)[0]
    return Pretrain(
        run_dir=Path(),
        model=config.model,
        data=DataFlags(batch_size=batch_size, accumulate=batch.accumulate, seq_len=batch.seq_len),
        optimizer=config.optimizer,
        devices=config.devices,
    )
