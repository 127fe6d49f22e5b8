"""Weights in the names of Hugging Face, and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import from_hf_state_dict, to_hf_state_dict
from tests.models.small import BERT, ENCODER_PAIR, SMALL, forward, make, shaken

ENCODERS = ENCODER_PAIR | {f"{name} alone": dataclasses.replace(c, num_labels=None) for name, c in ENCODER_PAIR.items()}


@pytest.fixture(scope="module")
def bert():
    """The weights of a BERT with a head, and what its checkpoint holds."""
    params = nnx.to_pure_dict(nnx.state(shaken(make(BERT, 0))))
    return params, to_hf_state_dict(BERT, params)


def assert_equal(ours, expected):
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def without(params, *path):
    """The parameters without one of them, or without those under a name."""
    name, *rest = path
    inner = {name: without(params[name], *rest)} if rest else {}
    return {key: value for key, value in params.items() if key != name} | inner


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_conversion_round_trip_is_exact(param_dtype, tokens):
    config = dataclasses.replace(SMALL, param_dtype=param_dtype)
    model = make(config, 0)
    state_dict = to_hf_state_dict(config, nnx.state(model))
    params = from_hf_state_dict(config, state_dict)
    jax.tree.map(np.testing.assert_array_equal, params, nnx.to_pure_dict(nnx.state(model)))
    again = to_hf_state_dict(config, params)
    assert list(again) == list(state_dict)
    assert all(array.dtype == param_dtype for array in again.values())
    embedding, head = again["model.embed_tokens.weight"], again["lm_head.weight"]
    assert np.shares_memory(embedding, params["embed"]["embedding"])  # nothing is copied
    assert np.shares_memory(head, params["lm_head"]["kernel"])

    other = make(config, 1)
    nnx.update(other, jax.tree.map(jnp.asarray, params))
    np.testing.assert_array_equal(forward(other, tokens), forward(model, tokens))


def test_a_weight_of_hugging_face_is_the_transpose_of_a_kernel(model):
    state_dict = to_hf_state_dict(SMALL, nnx.state(model))
    assert len(state_dict) == 3 + 9 * SMALL.num_layers
    kernel = np.asarray(model.layers.mlp.down.kernel)
    np.testing.assert_array_equal(state_dict["model.layers.2.mlp.down_proj.weight"], kernel[2].T)


def test_conversion_names_every_misfit(model):
    state_dict = to_hf_state_dict(SMALL, nnx.state(model))
    del state_dict["model.norm.weight"]
    state_dict["model.layers.0.self_attn.q_proj.bias"] = np.zeros(16)
    state_dict["lm_head.weight"] = np.zeros((60, 16))
    with pytest.raises(ValueError, match="do not fit") as error:
        from_hf_state_dict(SMALL, state_dict)
    assert str(error.value).splitlines()[1:] == [
        "missing: model.norm.weight",
        "unexpected: model.layers.0.self_attn.q_proj.bias",
        "wrong shape: lm_head.weight is (60, 16), the config needs (61, 16)",
    ]


def test_conversion_checks_our_side_as_well(model):
    deeper = dataclasses.replace(SMALL, num_layers=4)
    with pytest.raises(ValueError, match=r"layers/mlp/up/kernel is \(3, 16, 24\)"):
        to_hf_state_dict(deeper, nnx.state(model))


def test_derived_buffers_and_a_tied_head_are_left_out(model):
    state_dict = to_hf_state_dict(SMALL, nnx.state(model))
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.zeros(2) for i in range(SMALL.num_layers)}
    params = from_hf_state_dict(SMALL, state_dict | buffers | {"model.rotary_emb.inv_freq": np.zeros(2)})
    jax.tree.map(np.testing.assert_array_equal, params, from_hf_state_dict(SMALL, state_dict))
    tied = dataclasses.replace(SMALL, tied_head=True)
    assert "lm_head" not in from_hf_state_dict(tied, state_dict)


def test_layers_of_different_types_are_an_error(model):
    state_dict = to_hf_state_dict(SMALL, nnx.state(model))
    name = "model.layers.1.mlp.up_proj.weight"
    state_dict[name] = state_dict[name].astype(jnp.bfloat16)
    with pytest.raises(ValueError, match=f"{name} is bfloat16, but the layers before it are float32"):
        from_hf_state_dict(SMALL, state_dict)


@pytest.mark.parametrize("config", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_round_trips_of_an_encoder_are_exact(config, param_dtype):
    config = dataclasses.replace(config, param_dtype=param_dtype)
    params = nnx.to_pure_dict(nnx.state(shaken(make(config, 0))))
    state_dict = to_hf_state_dict(config, params)
    read = from_hf_state_dict(config, state_dict)
    assert_equal(read, params)
    again = to_hf_state_dict(config, read)
    assert list(again) == list(state_dict)
    assert_equal(again, state_dict)
    assert {str(array.dtype) for array in again.values()} == {param_dtype}


def test_names_of_an_encoder_have_a_prefix_if_it_has_a_head(bert):
    params, state_dict = bert
    alone = dataclasses.replace(BERT, num_labels=None)
    of_alone = to_hf_state_dict(alone, without(params, "head"))
    assert "encoder.layer.2.attention.self.query.bias" in of_alone
    prefixed = {f"bert.{name}" for name in of_alone} | {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(state_dict) == prefixed | {"classifier.weight", "classifier.bias"}
    for stored in (of_alone, {f"bert.{name}": array for name, array in of_alone.items()}):
        assert_equal(from_hf_state_dict(alone, stored), without(params, "head"))


def test_buffers_poolers_and_heads_of_pretraining_are_left_out(bert):
    params, state_dict = bert
    others = {
        "bert.embeddings.position_ids": np.arange(14)[None],
        "cls.predictions.decoder.weight": np.zeros((61, 16)),
        "cls.seq_relationship.bias": np.zeros(2),
    }
    assert_equal(from_hf_state_dict(BERT, state_dict | others), params)
    alone = dataclasses.replace(BERT, num_labels=None)
    pretrained = {name: array for name, array in (state_dict | others).items() if "classifier" not in name}
    assert_equal(from_hf_state_dict(alone, pretrained), without(params, "head"))


def test_old_names_of_norms_are_read(bert):
    params, state_dict = bert
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, array in state_dict.items():
        end = ".".join(name.split(".")[-2:])
        renamed[name.replace(end, old.get(end, end))] = array
    assert "bert.embeddings.LayerNorm.gamma" in renamed
    assert_equal(from_hf_state_dict(BERT, renamed), params)
    both = renamed | {"bert.embeddings.LayerNorm.weight": np.ones(16)}
    with pytest.raises(ValueError, match="LayerNorm.gamma and .*LayerNorm.weight are one parameter"):
        from_hf_state_dict(BERT, both)


def test_a_head_that_the_checkpoint_lacks_is_an_error(bert):
    _, state_dict = bert
    pretrained = {name: array for name, array in state_dict.items() if "classifier" not in name}
    with pytest.raises(ValueError, match="missing: classifier.weight\nmissing: classifier.bias"):
        from_hf_state_dict(BERT, pretrained)


def test_a_head_is_never_dropped_or_invented_in_silence(bert):
    _, state_dict = bert
    alone = dataclasses.replace(BERT, num_labels=None)
    with pytest.raises(ValueError, match="unexpected: classifier.weight\nunexpected: classifier.bias"):
        from_hf_state_dict(alone, state_dict)
    with pytest.raises(ValueError, match=r"classifier.weight is \(3, 16\), the config needs \(2, 16\)"):
        from_hf_state_dict(dataclasses.replace(BERT, num_labels=2), state_dict)


def test_misfits_of_an_encoder_are_named_as_the_checkpoint_names_them(bert):
    params, _ = bert
    alone = dataclasses.replace(BERT, num_labels=None)
    stored = {f"bert.{name}": array for name, array in to_hf_state_dict(alone, without(params, "head")).items()}
    stored["bert.embeddings.word_embeddings.weight"] = np.zeros((60, 16))
    stored["bert.encoder.layer.3.output.dense.bias"] = np.zeros(16)
    with pytest.raises(ValueError, match="do not fit") as error:
        from_hf_state_dict(alone, stored)
    assert str(error.value).splitlines()[1:] == [
        "unexpected: bert.encoder.layer.3.output.dense.bias",
        "wrong shape: bert.embeddings.word_embeddings.weight is (60, 16), the config needs (61, 16)",
    ]
