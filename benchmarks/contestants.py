"""The optimizers of Optax, this library and rollfast that the benchmarks compare, by name.

All use their defaults, except that the problem sets the learning rate, the rank and the interval
between refreshes.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import GaLoreDimensionNumbers

import grass_optax
from benchmarks.shapes import Problem
from train.config.optimizers import OPTIMIZERS

Transformation = optax.GradientTransformation
Maker = Callable[[Problem], Transformation]


class CannotRun(Exception):
    """Why a contestant is left out of a run; printed in its row."""


def _ours(name: str, **options: Any) -> Maker:
    """A method of this library, with the arguments that its row in `OPTIMIZERS` lists."""
    row = OPTIMIZERS[name]

    def make(problem: Problem) -> Transformation:
        gap = problem.gap if row.refreshes else row.update_proj_gap
        arguments = row.arguments(rank=problem.rank, update_proj_gap=gap)
        # What starts after a fraction of the run starts at once: golore's random phase. Before it,
        # golore refreshes as galore does.
        arguments |= dict.fromkeys(row.run_fractions, 0)
        arguments |= {"weight_dimension_numbers": problem.dimension_numbers}
        method: Callable[..., Transformation] = getattr(grass_optax, name)
        return method(problem.rate, **(arguments | options))

    return make


def _muon(problem: Problem) -> Transformation:
    return optax.contrib.muon(problem.rate, muon_weight_dimension_numbers=problem.dimension_numbers)


def _optax_galore(problem: Problem) -> Transformation:
    if problem.is_stacked:
        raise CannotRun("has no batch axes")
    dims = jax.tree.map(lambda _: GaLoreDimensionNumbers(0, 1), problem.abstract)
    return optax.contrib.galore(problem.rate, problem.rank, problem.gap, weight_dimension_numbers=dims)


def _rollfast(module: str, method: str, interval: str) -> Maker:
    """An optimizer of rollfast, which requires Python 3.12."""

    def make(problem: Problem) -> Transformation:
        if importlib.util.find_spec("rollfast") is None:
            raise CannotRun("rollfast is not installed")
        if problem.is_stacked:
            raise CannotRun("has no batch axes")
        function = getattr(importlib.import_module(f"rollfast.optim.{module}"), method)
        tx: Transformation = function(problem.rate, rank=problem.rank, **{interval: problem.gap})
        return tx

    return make


JAX_CONTESTANTS: dict[str, Maker] = {
    "adamw": lambda problem: optax.adamw(problem.rate),
    "adamw-again": lambda problem: optax.adamw(problem.rate),  # control: how far two runs of one program differ
    "muon": _muon,
    "optax-galore": _optax_galore,
    "rollfast-galore": _rollfast("galore", "galore_adamw", "update_interval"),
    "rollfast-apollo": _rollfast("apollo", "apollo_adamw", "projection_refresh_interval"),
    **{name: _ours(name) for name, row in OPTIMIZERS.items() if not row.is_baseline},
    "grassjump-unstored": _ours("grassjump", store_basis=False),
    "grassjump-gaussian": _ours("grassjump", basis="gaussian"),
    **{f"grassjump-unstored-{b}": _ours("grassjump", basis=b, store_basis=False) for b in ("gaussian", "blocks")},
    **{f"grassjump-{basis}": _ours("grassjump", basis=basis) for basis in ("blocks", "columns", "cosine")},
    **{f"grassjump-{n}-blocks": _ours("grassjump", basis="blocks", blocks=n) for n in (8, 16, 32)},
    "galore-randomized": _ours("galore", svd="randomized"),
    "fira-randomized": _ours("fira", svd="randomized"),
    "apollo-stored": _ours("apollo", store_basis=True),
}
# A refresh with an exact SVD takes seconds on a CPU.
EXACT_SVD = frozenset({"optax-galore", "rollfast-galore"}).union(
    name for name, row in OPTIMIZERS.items() if row.svd == "always"
)
EVERY_STEP_ALIKE = frozenset({"adamw-again", "torch-adamw"}).union(
    name for name, row in OPTIMIZERS.items() if not row.refreshes
)


def optimizers(names: list[str], problem: Problem) -> tuple[dict[str, Transformation], dict[str, str]]:
    """The contestants that can run on a problem, and why the others cannot."""
    found, missing = {}, {}
    for name in names:
        try:
            found[name] = JAX_CONTESTANTS[name](problem)
        except CannotRun as reason:
            missing[name] = str(reason)
    return found, missing


def refresh_gap(name: str, problem: Problem) -> int | None:
    """The interval between a contestant's refreshes in a run; None if all its steps are alike."""
    return None if name in EVERY_STEP_ALIKE else problem.gap


@functools.cache
def own_gap(name: str) -> int | None:
    """A contestant's default interval; None if all its steps are alike."""
    if name in EVERY_STEP_ALIKE:
        return None
    method = name.split("-")[0]
    return OPTIMIZERS[method].update_proj_gap if method in OPTIMIZERS else 200  # all peers use 200
