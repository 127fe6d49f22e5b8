"""What do the printed and the released transport do to the loss? GrassJump and GrassWalk with each.

    python -m experiments.losses_of_transports

Writes a line for each run to docs/results/losses_of_transports.jsonl, and prints the tables.
Finished runs are skipped. Each contestant has a learning rate of its own, and a scale of the
matrices, so that a transport that only makes steps larger gains or loses nothing by it
(`experiments.transports` measures by how much).
"""

from pathlib import Path

import optax

import grass_optax
from experiments.contest import Contest
from experiments.contest_tables import Table
from experiments.pretraining import Run, study_of
from experiments.study import run_command
from experiments.transports import TRANSPORTS
from grass_optax import subspaces
from grass_optax.residual import recovery
from train.config.optimizers import OPTIMIZERS
from train.program.kernels import stacked_kernels

METHODS = {
    "grassjump": (subspaces.random_jump(), None),
    "grasswalk": (subspaces.random_walk(), subspaces.range_finder()),
}
SHARE, INTERVAL = 4, 20  # the shorter the interval, the more a transport does


def _contestants(method: str) -> tuple[str, ...]:
    return tuple(f"{method}, {transport}" for transport in TRANSPORTS)


def default_rate(contestant: str, model: str) -> float:
    """The trainer's rate of the method, with hats."""
    return OPTIMIZERS[contestant.partition(", ")[0]].pretraining(model).learning_rate


def optimizer(run: Run, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """The method with the transport of a contestant."""
    method, _, transport = run.contestant.partition(", ")
    rule, initial = METHODS[method]
    direction = grass_optax.assemble(
        rule,
        TRANSPORTS[transport],
        recovery(1.01),
        rank=run.rank,
        update_proj_gap=run.update_proj_gap,
        scale=run.scale,
        initial=initial,
        weight_dimension_numbers=stacked_kernels,
        key=run.seed,
    )
    return grass_optax.with_rates(direction, learning_rate)


CONTEST = Contest(
    results=Path("docs/results/losses_of_transports.jsonl"),
    study=study_of(optimizer),
    tables=tuple(Table(f"Transports of {method}", _contestants(method), SHARE, INTERVAL) for method in METHODS),
    default_rate=default_rate,
    tunes=("learning_rate", "scale"),
)


if __name__ == "__main__":
    run_command(lambda: CONTEST.main(__doc__))
