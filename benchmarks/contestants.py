"""The optimizers of Optax, of this library and of rollfast that the benchmarks compare, by name.

All have their defaults but for the learning rate, the rank and the interval of refreshes, which are
the problem's.
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
from train.config.optimizers import UPDATE_PROJ_GAPS, OptimizerName

Transformation = optax.GradientTransformation
Maker = Callable[[Problem], Transformation]


class CannotRun(Exception):
    """Why a contestant is not in a run; printed in its row."""


def _ranked(method: Callable[..., Transformation], **options: Any) -> Maker:
    """A method of this library that takes a rank and an interval."""

    def make(problem: Problem) -> Transformation:
        axes = problem.dimension_numbers
        common = {"rank": problem.rank, "update_proj_gap": problem.gap, "weight_dimension_numbers": axes}
        return method(problem.rate, **(common | options))

    return make


def _apollo_mini(problem: Problem) -> Transformation:
    return grass_optax.apollo_mini(
        problem.rate, update_proj_gap=problem.gap, weight_dimension_numbers=problem.dimension_numbers
    )


def _badam(problem: Problem) -> Transformation:
    return grass_optax.badam(problem.rate, problem.gap, weight_dimension_numbers=problem.dimension_numbers)


def _column_sgd(problem: Problem) -> Transformation:
    return grass_optax.column_sgd(problem.rate, weight_dimension_numbers=problem.dimension_numbers)


def _muon(problem: Problem) -> Transformation:
    return optax.contrib.muon(problem.rate, muon_weight_dimension_numbers=problem.dimension_numbers)


def _optax_galore(problem: Problem) -> Transformation:
    if problem.is_stacked:
        raise CannotRun("has no batch axes")
    dims = jax.tree.map(lambda _: GaLoreDimensionNumbers(0, 1), problem.abstract)
    return optax.contrib.galore(problem.rate, problem.rank, problem.gap, weight_dimension_numbers=dims)


def _rollfast(module: str, method: str, interval: str) -> Maker:
    """An optimizer of rollfast, which needs Python 3.12."""

    def make(problem: Problem) -> Transformation:
        if importlib.util.find_spec("rollfast") is None:
            raise CannotRun("rollfast is not installed")
        if problem.is_stacked:
            raise CannotRun("has no batch axes")
        function = getattr(importlib.import_module(f"rollfast.optim.{module}"), method)
        made: Transformation = function(problem.rate, rank=problem.rank, **{interval: problem.gap})
        return made

    return make


JAX_CONTESTANTS: dict[str, Maker] = {
    "adamw": lambda problem: optax.adamw(problem.rate),
    "adamw-again": lambda problem: optax.adamw(problem.rate),  # how far two runs of one program differ
    "muon": _muon,
    "optax-galore": _optax_galore,
    "rollfast-galore": _rollfast("galore", "galore_adamw", "update_interval"),
    "rollfast-apollo": _rollfast("apollo", "apollo_adamw", "projection_refresh_interval"),
    "grassjump": _ranked(grass_optax.grassjump),
    "grassjump-unstored": _ranked(grass_optax.grassjump, store_basis=False),
    "grassjump-gaussian": _ranked(grass_optax.grassjump, orthonormal=False),
    "grassjump-unstored-gaussian": _ranked(grass_optax.grassjump, orthonormal=False, store_basis=False),
    "grasswalk": _ranked(grass_optax.grasswalk),
    "subtrack": _ranked(grass_optax.subtrack),
    "subtrack_grad": _ranked(grass_optax.subtrack_grad),
    "galore": _ranked(grass_optax.galore),
    "galore-randomized": _ranked(grass_optax.galore, svd="randomized"),
    "golore": _ranked(grass_optax.golore, random_start=0),  # its random phase; before it, it refreshes as galore does
    "fira": _ranked(grass_optax.fira),
    "fira-randomized": _ranked(grass_optax.fira, svd="randomized"),
    "apollo": _ranked(grass_optax.apollo),
    "apollo-stored": _ranked(grass_optax.apollo, store_basis=True),
    "apollo_mini": _apollo_mini,
    "ldadam": _ranked(grass_optax.ldadam, update_proj_gap=1),
    "frugal": _ranked(grass_optax.frugal),
    "online_subspace_descent": _ranked(grass_optax.online_subspace_descent),
    "coap": _ranked(grass_optax.coap),
    "sumo": _ranked(grass_optax.sumo),
    "badam": _badam,
    "column_sgd": _column_sgd,
}
EXACT_SVD = frozenset({"galore", "fira", "optax-galore", "rollfast-galore"})  # seconds for a refresh on a CPU
EVERY_STEP_ALIKE = frozenset({"adamw", "adamw-again", "muon", "ldadam", "column_sgd", "torch-adamw"})


def refresh_gap(name: str, problem: Problem) -> int | None:
    """The interval of a contestant's refreshes in a run; None if all its steps are of one kind."""
    return None if name in EVERY_STEP_ALIKE else problem.gap


@functools.cache
def own_gap(name: str) -> int | None:
    """The interval that a contestant has unless told otherwise; None if all its steps are of one
    kind.
    """
    if name in EVERY_STEP_ALIKE:
        return None
    method = name.split("-")[0]
    return UPDATE_PROJ_GAPS[OptimizerName(method)] if method in set(OptimizerName) else 200  # all peers have 200
