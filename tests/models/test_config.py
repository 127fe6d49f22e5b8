"""Configurations of the LLaMA that cannot be."""

import dataclasses

import pytest

from tests.models.small import SMALL


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
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        ({"param_dtype": "f32"}, "param_dtype must be one of float32, bfloat16, float16, got 'f32'"),
        ({"attention": "flash"}, "attention must be one of xla, cudnn, got 'flash'"),
    ],
)
def test_a_config_that_cannot_be_is_an_error_that_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
