"""Sizes of the LLaMA, and configurations that cannot be."""

import dataclasses

import pytest
from flax import nnx

from models import CONFIGS, Llama, count_parameters
from tests.models.small import SMALL, flat_state


@pytest.mark.parametrize("config", [*CONFIGS.values(), SMALL], ids=[*CONFIGS, "grouped queries"])
def test_parameter_count_is_exact(config):
    shapes = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in flat_state(shapes).values()) == count_parameters(config)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("60m", 58.07), ("130m", 134.11), ("1b", 1339.08), ("7b", 6738.42), ("70b", 68976.65)],
)
def test_sizes_are_the_published_ones(name, millions):
    assert count_parameters(CONFIGS[name]) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 18}, "multiple of num_heads"),
        ({"hidden_size": 12}, "is odd"),
        ({"num_kv_heads": 3}, "divides num_heads"),
        ({"num_layers": 0}, "num_layers must be a positive int, got 0"),
        ({"num_kv_heads": -1}, "num_kv_heads must be a positive int, got -1"),
        ({"vocab_size": 10.0}, "vocab_size must be a positive int, got 10.0"),
        ({"init_std": 0.0}, "init_std must be positive, got 0.0"),
        ({"dtype": "float64"}, "dtype must be one of float32, bfloat16, float16, got 'float64'"),
        ({"param_dtype": "f32"}, "param_dtype must be one of float32, bfloat16, float16, got 'f32'"),
    ],
)
def test_a_config_that_cannot_be_is_an_error_that_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
