"""Does it matter how a random subspace is drawn? The held-out loss of GrassJump with each basis.

    python -m experiments.bases

Writes a line for each run to docs/results/bases.jsonl, and prints the tables of
docs/results/bases.md. Finished runs are skipped.

Every contestant differs from GrassJump or GrassWalk only in its bases, and has a learning rate of
its own.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from optax.contrib import MuonDimensionNumbers

import grass_optax
from experiments.contest import Contest
from experiments.contest_tables import Table
from experiments.pretraining import Run, study_of
from experiments.reordered import strided
from experiments.study import run_command
from grass_optax import subspaces
from grass_optax.residual import recovery
from train.config.optimizers import OPTIMIZERS, Optimizer
from train.program.kernels import stacked_kernels


class Rules(NamedTuple):
    """How a contestant makes its bases."""

    rule: subspaces.SubspaceRule
    initial: subspaces.SubspaceRule | None = None  # None: `rule`


def _jump(basis: subspaces.RandomBasis = "haar", blocks: int | None = None) -> Rules:
    return Rules(subspaces.random_jump(basis, blocks))


def _walk_of_blocks(blocks: int) -> Rules:
    walk, first = subspaces.random_walk(), subspaces.range_finder()
    return Rules(subspaces.by_blocks(walk, blocks), subspaces.by_blocks(first, blocks))


def _walk_with_jumps(every: int) -> Rules:
    rule = subspaces.interleave(subspaces.random_walk(), subspaces.random_jump(), every)
    return Rules(rule, subspaces.range_finder())


RULES: dict[str, Rules] = {
    "haar": _jump(),
    "gaussian": _jump("gaussian"),
    "blocks:4": _jump("blocks", 4),
    "blocks:8": _jump("blocks", 8),
    "blocks:16": _jump("blocks", 16),
    "cosine": _jump("cosine"),
    "columns": _jump("columns"),
    "blocks:8, every 8th row": Rules(strided(8)),
    "blocks:4, a head each": _jump("blocks", 4),
    "blocks:4, every 4th row": Rules(strided(4)),
    "walk": Rules(subspaces.random_walk(), subspaces.range_finder()),
    "walk, blocks:4": _walk_of_blocks(4),
    "walk, blocks:8": _walk_of_blocks(8),
    "walk, every 2nd a jump": _walk_with_jumps(2),
    "walk, every 5th a jump": _walk_with_jumps(5),
}
# The heads of q, k and v along m, too, so that each of the four heads of `tiny` is a block; every
# 4th row spreads each head over all blocks.
HEADS_FIRST = ("blocks:4, a head each", "blocks:4, every 4th row")


def _row(contestant: str) -> Optimizer:
    """The facts about the method whose bases a contestant replaces."""
    return OPTIMIZERS["grasswalk" if contestant.startswith("walk") else "grassjump"]


def _rate(contestant: str, model: str) -> float:
    """The default learning rate of that method."""
    return _row(contestant).pretraining(model).learning_rate


def optimizer(run: Run, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """GrassJump or GrassWalk with the bases of a contestant."""
    rule, initial = RULES[run.contestant]
    direction = grass_optax.assemble(
        rule,
        grass_optax.transport.rotate(0.9, 0.999),
        recovery(1.01),
        rank=run.rank,
        update_proj_gap=run.update_proj_gap,
        scale=run.scale,
        initial=initial,
        weight_dimension_numbers=heads_first if run.contestant in HEADS_FIRST else stacked_kernels,
        key=run.seed,
    )
    return grass_optax.with_rates(direction, learning_rate)


def heads_first(params: Any) -> Any:
    """The kernels of attention with their heads along m, where they are square."""

    def swapped(path: tuple[Any, ...], dims: MuonDimensionNumbers | None) -> MuonDimensionNumbers | None:
        of_heads = jax.tree_util.keystr(path, simple=True, separator="/").endswith(("q/kernel", "k/kernel", "v/kernel"))
        return MuonDimensionNumbers(2, 1) if dims is not None and of_heads else dims

    return jax.tree.map_with_path(
        swapped, stacked_kernels(params), is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers)
    )


_JUMPS = tuple(RULES)[:7]
_NARROW = tuple(name for name in _JUMPS if name != "blocks:16")  # of a rank of 8
HALF, QUARTER, SIXTEENTH = 2, 4, 16
_WALKS = ("walk", "walk, blocks:4", "walk, blocks:8")
TABLES = (
    Table("Jumps", _JUMPS, QUARTER, 100),
    Table("Walks", _WALKS, QUARTER, 100),
    Table("Jumps at a low rank", _NARROW, SIXTEENTH, 100),
    Table("Blocks and heads", ("blocks:4", *HEADS_FIRST), QUARTER, 100),
    Table("Blocks of other rows", ("blocks:8", "blocks:8, every 8th row"), QUARTER, 100),
    Table("Frequent jumps", _JUMPS, QUARTER, 20),
    Table("Frequent walks", (*_WALKS, "walk, every 2nd a jump", "walk, every 5th a jump"), QUARTER, 20),
    Table("Frequent jumps at a low rank", _NARROW, SIXTEENTH, 20),
    Table("Jumps at a high rank", _JUMPS, HALF, 100),
)


CONTEST = Contest(
    results=Path("docs/results/bases.jsonl"), study=study_of(optimizer), tables=TABLES, default_rate=_rate
)


if __name__ == "__main__":
    run_command(lambda: CONTEST.main(__doc__))
