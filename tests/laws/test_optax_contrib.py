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


def stacked_only(params):
    """Given dimension numbers, badam takes a tree in which nothing is stacked."""
    return jax.tree.map(lambda x: MuonDimensionNumbers(-2, -1) if x.ndim > 2 else None, params)


ALIASES = {name: method.alias for name, method in METHODS.items()}
ALIASES["badam"] = functools.partial(grass_optax.badam, weight_dimension_numbers=stacked_only)
# Rank 1, so that the suite's 2 x 2 parameters really are split.
OPTIONS = {name: method.arguments(rank=1) | dict.fromkeys(method.needs, 4) for name, method in METHODS.items()}
OPTIONS["online_subspace_descent"]["update_proj_gap"] = 20  # its basis has to turn within the suite's steps
TABLE = [
    {
        "opt_name": name,
        "opt_kwargs": {"learning_rate": 1e-2} | OPTIONS[name],
        "wrapper_name": None,
        "wrapper_kwargs": None,
    }
    for name in ALIASES
]
OURS = sorted(set().union(*(method.static for method in METHODS.values())))
STATIC = ("'rank', 'update_proj_gap'", ", ".join(map(repr, OURS)))


def suite():
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
    module.OURS = tuple(TABLE)
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


class TestContrib(suite().ContribTest):
    """Its methods are the suite's; only where it looks for factories, and how strict JAX is, are
    ours.
    """

    @pytest.fixture(autouse=True)
    def _our_factories(self):
        with (
            mock.patch.multiple(optax.contrib, create=True, **ALIASES),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield


def test_the_suite_covers_our_aliases():
    names = [name for name in dir(TestContrib) if name.startswith("test_")]
    assert len(names) >= 2 * 8
