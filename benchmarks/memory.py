"""How large is the optimizer state of every method? Prints the table of docs/reference/methods.md.

    python -m benchmarks.memory

For the LLaMA sizes of the papers. The bytes come from `grass_optax.memory_report`, from shapes
alone; nothing is allocated.
"""

import dataclasses
import sys
from typing import Any

import jax
import optax
from flax import nnx

import grass_optax
from benchmarks.shapes import RANKS
from models import CONFIGS, Llama
from train.config.optimizer_flags import default_optimizer
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.schedule import ScheduleFlags
from train.program.optimizer import make_optimizer

PRETRAINING = [name for name, row in OPTIMIZERS.items() if row.package in ("grass_optax", "optax")]


def abstract_params(size: str) -> Any:
    """Shapes of the parameters of a LLaMA, in float32."""
    config = dataclasses.replace(CONFIGS[size], param_dtype="float32")
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))), nnx.Param))


def optimizer(name: OptimizerName, size: str) -> optax.GradientTransformation:
    """The trainer's optimizer with the method's defaults, without gradient clipping."""
    flags = dataclasses.replace(default_optimizer(name, size), rank=RANKS[size], clip=0.0)
    return make_optimizer(flags, ScheduleFlags(), seed=0)


def state_bytes(size: str) -> dict[str, int]:
    """Bytes of the optimizer state of every method at one size."""
    params = abstract_params(size)
    return {name: grass_optax.memory_report(optimizer(name, size), params).total_bytes for name in PRETRAINING}


def table(sizes: list[str]) -> str:
    """A Markdown table of gigabytes (10^9 bytes), sorted by the state at the last size."""
    columns = {size: state_bytes(size) for size in sizes}
    names = sorted(PRETRAINING, key=lambda name: columns[sizes[-1]][name])
    rows = [
        ["method", *(f"{size} (r = {RANKS[size]})" for size in sizes), f"of adamw's, {sizes[-1]}"],
        ["---", *["---:"] * (len(sizes) + 1)],
    ]
    for name in names:
        last = columns[sizes[-1]]
        share = f"{last[name] / last['adamw']:.1%}"
        rows.append([f"`{name}`", *(f"{columns[size][name] / 1e9:.3f}" for size in sizes), share])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    sys.stdout.write(table(list(RANKS)) + "\n")
