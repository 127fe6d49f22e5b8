"""Weights of the LLaMA in the names of Hugging Face, and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import from_hf_state_dict, to_hf_state_dict
from tests.models.small import SMALL, forward, make


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
