"""Configurations of the encoder: those that cannot be, and what needs neither JAX nor Flax."""

import dataclasses
import subprocess
import sys

import pytest

from models import ENCODERS
from tests.models.small import BERT, ROBERTA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 18}, "multiple of num_heads"),
        ({"vocab_size": 0}, "vocab_size must be a positive int, got 0"),
        ({"max_positions": -1}, "max_positions must be a positive int, got -1"),
        ({"num_types": 0}, "num_types must be a positive int, got 0"),
        ({"num_labels": 0}, "num_labels must be a positive int, got 0"),
        ({"norm_eps": 0.0}, "norm_eps must be positive, got 0.0"),
        ({"family": "electra"}, "family must be one of bert, roberta, got 'electra'"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_a_config_that_cannot_be_is_an_error_that_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BERT, **change)


def test_heads_of_an_encoder_may_have_an_odd_number_of_features():
    assert dataclasses.replace(BERT, hidden_size=12).head_dim == 3


def test_positions_of_roberta_begin_after_two_rows():
    assert (BERT.first_position, BERT.position_rows) == (0, 14)
    assert (ROBERTA.first_position, ROBERTA.position_rows) == (2, 16)
    assert ENCODERS["roberta-base"].position_rows == 514


def test_configurations_and_sizes_need_neither_jax_nor_flax():
    code = (
        "import sys, models; models.count_parameters(models.ENCODERS['minilm']); "
        "sys.exit(bool({'jax', 'flax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
