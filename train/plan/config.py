"""What is planned: the flags of a run that decide what its step takes, and for which devices."""

import dataclasses
from pathlib import Path

from train.config.run import DataFlags, DeviceFlags, ModelFlags, OptimizerFlags, Pretrain, defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchFlags:
    """The batch."""

    batch_size: int | None = None
    """Windows of text in a batch (None: one for each device of data x fsdp)."""
    seq_len: int = DataFlags.seq_len
    """Tokens predicted in a window (256 for models other than tiny)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """The plan."""

    topology: str = ""
    """Compile for these TPUs, none of which need be here: v5e:8x8, v5p:4x4x4. Needs libtpu (CPU
    devices).
    """
    json: Path | None = None
    """Write the plan here too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Say what a training step will take of each device of a mesh, and what the devices will send
    each other.

    The step of `pretrain` is compiled for the devices of --mesh, which need not be here; nothing
    runs. The defaults shown go with tiny and grassjump; others are in brackets.
    """

    plan: PlanFlags = PlanFlags()
    model: ModelFlags = dataclasses.field(default_factory=ModelFlags)
    batch: BatchFlags = BatchFlags()
    optimizer: OptimizerFlags = dataclasses.field(default_factory=OptimizerFlags)
    devices: DeviceFlags = dataclasses.field(default_factory=DeviceFlags)


def plan_defaults(given: Plan) -> Plan:
    """Return what follows from the model and optimizer that were `given`."""
    run = defaults(Pretrain(run_dir=Path(), model=given.model, optimizer=given.optimizer))
    return Plan(model=run.model, batch=BatchFlags(seq_len=run.data.seq_len), optimizer=run.optimizer)


def run_of_plan(config: Plan, shards: int) -> Pretrain:
    """Return the run that is planned, on a mesh that shards a batch over so many devices."""
    batch_size = shards if config.batch.batch_size is None else config.batch.batch_size
    return Pretrain(
        run_dir=Path(),
        model=config.model,
        data=DataFlags(batch_size=batch_size, seq_len=config.batch.seq_len),
        optimizer=config.optimizer,
        devices=config.devices,
    )
