"""Optax's own suite for contributed optimizers, from the installed package, over our aliases.

The suite is a module whose tables are expanded when its class is made, and it finds factories by
name in `optax.contrib`. So its source is run with its tables replaced and our factories in their
place; nothing of it is copied.
"""

import functools
import importlib.util
import re
import types
from pathlib import Path
from unittest import mock

import jax
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from tests.util import METHODS

FIRST = ("grassjump", "ldadam", "badam", "column_sgd")


def stacked_only(params):
    """Given dimension numbers, badam takes a tree in which nothing is stacked."""
    return jax.tree.map(lambda x: MuonDimensionNumbers(-2, -1) if x.ndim > 2 else None, params)


ALIASES = {name: method.alias for name, method in METHODS.items()}
ALIASES["badam"] = functools.partial(grass_optax.badam, weight_dimension_numbers=stacked_only)
# Rank 1, so that the suite's 2 x 2 parameters really are split.
OPTIONS = {name: method.arguments(rank=1) | dict.fromkeys(method.needs, 4) for name, method in METHODS.items()}
OPTIONS["online_subspace_descent"]["update_proj_gap"] = 20  # its basis has to turn within the suite's steps
OURS = sorted(set().union(*(method.static for method in METHODS.values())))
STATIC = ("'rank', 'update_proj_gap'", ", ".join(map(repr, OURS)))


def case(name):
    options = {"learning_rate": 1e-2} | OPTIONS[name]
    return {"opt_name": name, "opt_kwargs": options, "wrapper_name": None, "wrapper_kwargs": None}


def suite(names):
    spec = importlib.util.find_spec("optax.contrib._common_test")
    source = Path(spec.origin).read_text()
    assert source.count(STATIC[0]) == 1
    source = source.replace(*STATIC)
    # The last assignment of each table before the class wins.
    source, n = re.subn(r"(?m)^_ALL_OPTIMIZERS_UNDER_TEST = tuple\($", "_IGNORED = tuple(", source)
    assert n == 1
    source, n = re.subn(
        r"(?m)^_MAIN_OPTIMIZERS_UNDER_TEST = tuple\(_MAIN_OPTIMIZERS_UNDER_TEST\)$",
        "_MAIN_OPTIMIZERS_UNDER_TEST = _ALL_OPTIMIZERS_UNDER_TEST = OURS",
        source,
    )
    assert n == 1
    module = types.ModuleType("optax_common_test_of_ours")
    module.OURS = tuple(map(case, names))
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


class _Ours:
    """Where the suite looks for factories, and how strict JAX is. The rest is the suite's."""

    @pytest.fixture(autouse=True)
    def _our_factories(self):
        with (
            mock.patch.multiple(optax.contrib, create=True, **ALIASES),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield


class TestContrib(_Ours, suite(FIRST).ContribTest):
    """The suite over methods of each kind."""


@pytest.mark.long
class TestContribOfTheOthers(_Ours, suite([name for name in ALIASES if name not in FIRST]).ContribTest):
    """The suite over the other methods."""


def test_the_suite_covers_our_aliases():
    for tested in (TestContrib, TestContribOfTheOthers):
        assert len([name for name in dir(tested) if name.startswith("test_")]) >= 2 * 8
