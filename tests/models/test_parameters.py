"""The table of each architecture is that of its model."""

import pytest
from flax import nnx

from models import CONFIGS, ENCODERS, count_parameters
from models.config import TransformerConfig
from models.parameters import table_of
from tests.models.small import BERT, MODELS, ROBERTA, SMALL, flat_state

ALL = CONFIGS | ENCODERS | {"grouped queries": SMALL, "with a head": BERT, "with the other head": ROBERTA}


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_paths_and_shapes_are_those_of_the_model(config):
    model = nnx.eval_shape(lambda: MODELS[type(config)](config, rngs=nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in flat_state(model).items()}
    assert shapes == {path: parameter.shape for path, parameter in table_of(config).parameters.items()}
    assert sum(leaf.size for leaf in flat_state(model).values()) == count_parameters(config)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("60m", 58.07), ("130m", 134.11), ("1b", 1339.08), ("7b", 6738.42), ("70b", 68976.65),
        ("roberta-base", 124.06), ("roberta-large", 354.31), ("bert-base", 108.89), ("minilm", 22.57),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(name, millions):
    assert count_parameters(ALL[name]) / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_configuration_without_an_architecture_has_no_table():
    config = TransformerConfig(vocab_size=2, hidden_size=2, intermediate_size=2, num_heads=1, num_layers=1)
    with pytest.raises(TypeError, match="TransformerConfig is no configuration of an architecture"):
        table_of(config)
