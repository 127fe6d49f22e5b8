"""A method and its direction: the same arguments, and the same update but for rate and sign."""

import inspect
import re
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax

METHODS = [name for name in grass_optax.methods.__all__ if f"scale_by_{name}" in grass_optax.methods.__all__]
RATES = ["weight_decay", "mask", "adam_learning_rate"]

every_method = pytest.mark.parametrize("name", METHODS)


def alias_and_direction(name):
    return getattr(grass_optax, name), getattr(grass_optax, f"scale_by_{name}")


def documented_arguments(function):
    """The names listed under Args."""
    text = inspect.getdoc(function).split("\nArgs:\n")[1].split("\n\n")[0]
    return [name for names in re.findall(r"(?m)^  ([a-z][a-z0-9_, ]*): ", text) for name in names.split(", ")]


@every_method
def test_alias_takes_a_rate_what_its_direction_takes_and_then_rates(name):
    alias, direction = (inspect.signature(f) for f in alias_and_direction(name))
    names = list(alias.parameters)
    assert names == ["learning_rate", *direction.parameters, *RATES]
    for parameter in direction.parameters.values():
        assert alias.parameters[parameter.name] == parameter  # kind, default and annotation
    assert [alias.parameters[rate].default for rate in RATES] == [0.0, None, None]
    assert alias.return_annotation == direction.return_annotation == optax.GradientTransformationExtraArgs


@every_method
def test_every_argument_is_documented_once(name):
    alias, direction = alias_and_direction(name)
    assert sorted(documented_arguments(direction)) == sorted(inspect.signature(direction).parameters)
    assert documented_arguments(alias) == ["learning_rate", *RATES]


@every_method
def test_alias_passes_every_argument_on_and_only_adds_rate_and_sign(name, monkeypatch):
    alias, direction = alias_and_direction(name)
    signature = inspect.signature(direction)
    given = {argument: object() for argument in signature.parameters}
    # What an alias itself reads, for rates and decay.
    read = {"rank": 3, "blocks": -3, "switch_gap": 7, "order": "descending", "key": 5}
    read["weight_dimension_numbers"] = {"kernel": MuonDimensionNumbers(1, 2)}
    given |= {argument: read[argument] for argument in read if argument in given}
    calls = []

    def recorder(*args, **kwargs):
        calls.append(signature.bind(*args, **kwargs).arguments)
        return optax.scale(3.0)

    monkeypatch.setattr(sys.modules[alias.__module__], direction.__name__, recorder)
    tx = alias(0.5, **given)
    assert calls == [given]
    params = {"kernel": jnp.ones((3, 6, 8))}
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], -1.5)
