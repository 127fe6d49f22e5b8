"""The config.json of Hugging Face: what is read, and what is refused by its name."""

import dataclasses
import re

import pytest

from models.config import CONFIGS, RopeScaling
from models.encoder_config import ENCODERS
from models.hf_config import from_hf_config, to_hf_config
from tests.models.small import BERT, ENCODER_PAIR, ROBERTA, SMALL

SETTINGS = to_hf_config(SMALL, 2048)
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize("config", [*CONFIGS.values(), SMALL], ids=[*CONFIGS, "small"])
def test_what_is_written_is_read(config):
    assert from_hf_config(to_hf_config(config, 1024)) == config


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"rope_parameters": None, "rope_scaling": None}, None),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
         RopeScaling(kind="linear", factor=2.0)),
        ({"rope_parameters": None, "rope_scaling": LLAMA3}, RopeScaling(kind="llama3", factor=8.0)),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 3e5}, "rope_scaling": None},
         RopeScaling(kind="llama3", factor=8.0)),
    ],
)  # fmt: skip
def test_rotations_are_read_as_transformers_4_and_5_write_them(changes, scaling):
    found = from_hf_config(SETTINGS | {"rope_theta": 3e5} | changes)
    assert (found.rope_theta, found.rope_scaling) == (3e5, scaling)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "model_type is 'mixtral', but only llama, qwen2, bert and roberta can be read"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but the model here computes 'silu' only"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "use_sliding_window is True"),
        ({"head_dim": 96}, "head_dim is 96, but heads here have hidden_size / num_attention_heads = 4"),
        ({"logit_scale": 0.1}, "the setting logit_scale, 0.1, is not known here"),
        ({"quantization_config": {"bits": 4}}, "the setting quantization_config"),
        ({"hidden_size": None}, "the settings hidden_size are missing"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn' is not known here"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}}, "mscale of rope scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor, .* are missing"),
        (
            {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": "x"}},
            "original_positions must be a positive",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "factor of rope scaling must be at least 1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters is .* give one of them"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\], but must be an object"),
        ({"rope_parameters": {"rope_theta": None}}, "rope_theta is None, but must be a positive number"),
        ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_theta is inf, but must be a positive number"),
        ({"is_causal": False}, "is_causal is False, but the model here computes True only"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has sliding_attention, but"),
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map is .*, but code that comes with a model is not run"),
        ({"logit_scale": 0}, "the setting logit_scale, 0, is not known here"),
    ],
)
def test_what_the_model_does_not_compute_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf_config(SETTINGS | changes)


def test_a_setting_that_is_off_is_no_obstacle():
    assert from_hf_config(SETTINGS | {"logit_scale": None, "use_moe": False, "attention_bias": False}) == SMALL


def test_what_published_models_say_beside_their_settings_is_no_obstacle():
    smollm2 = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "fp16"}}
    said = {"is_causal": True, "layer_types": ["full_attention"] * 2, "auto_map": {}, "pruned_heads": {}}
    first_llama = {"max_sequence_length": 2048, "pad_token_id": 0, "max_length": 20, "temperature": 0.6, "top_p": 0.9}
    decoded_from_gguf = {"unk_token_id": 0, "_name_or_path": "Smollm2 135M 8k", "attention_dropout": 0.0}
    for others in (smollm2, said, first_llama, decoded_from_gguf, {"output_hidden_states": True, "return_dict": True}):
        assert from_hf_config(SETTINGS | others) == SMALL


def test_rotations_may_be_said_in_both_forms_if_they_agree():
    old = {"type": "linear", "factor": 2.0}
    both = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 3e5}, "rope_scaling": old}
    assert from_hf_config(SETTINGS | both).rope_scaling == RopeScaling(kind="linear", factor=2.0)


def test_where_a_model_comes_from_is_no_obstacle():
    assert from_hf_config(SETTINGS | {"_name_or_path": "a/b", "_model_name_or_path": "c"}) == SMALL


def test_qwen2_has_biases_and_its_published_size():
    found = from_hf_config(SETTINGS | {"model_type": "qwen2", "tie_word_embeddings": True})
    assert found == dataclasses.replace(SMALL, qkv_bias=True, tied_head=True)
    assert re.match("Qwen2", to_hf_config(found, 1)["architectures"][0])


PUBLISHED_ENCODERS = ENCODERS | ENCODER_PAIR | {"regression": dataclasses.replace(BERT, num_labels=1)}


@pytest.mark.parametrize("config", PUBLISHED_ENCODERS.values(), ids=PUBLISHED_ENCODERS)
def test_what_is_written_of_an_encoder_is_read(config):
    assert from_hf_config(to_hf_config(config)) == config


def test_max_positions_is_needed_for_a_decoder_and_known_of_an_encoder():
    with pytest.raises(ValueError, match="max_positions is missing"):
        to_hf_config(SMALL)
    assert to_hf_config(ROBERTA, 14)["max_position_embeddings"] == 16
    with pytest.raises(ValueError, match="max_positions is 16, but the config has 14"):
        to_hf_config(ROBERTA, 16)


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"architectures": ["RobertaModel"]}, None),
        ({"architectures": ["RobertaForMaskedLM"]}, None),
        ({"architectures": None}, None),
        ({"id2label": None, "label2id": None}, 2),
        ({"num_labels": 5}, 5),
    ],
)
def test_an_encoder_has_the_head_that_its_architecture_has(changes, labels):
    assert from_hf_config(to_hf_config(ROBERTA) | changes).num_labels == labels


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (BERT, {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', but the model here computes 'gelu' only"),
        (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        (BERT, {"is_decoder": True}, "is_decoder is True"),
        (BERT, {"is_causal": True}, "is_causal is True, but the model here computes False only"),
        (BERT, {"add_cross_attention": True}, "add_cross_attention is True"),
        (BERT, {"embedding_size": 8}, "the setting embedding_size, 8, is not known here"),
        (BERT, {"layer_norm_eps": None}, "the settings layer_norm_eps are missing"),
        (BERT, {"architectures": ["BertForTokenClassification"]}, "architectures is .'BertForTokenClassification'."),
        (ROBERTA, {"pad_token_id": 0}, "pad_token_id is 0, but the model here computes 1 only"),
        (ROBERTA, {"max_position_embeddings": 2}, "max_positions must be a positive int, got 0"),
    ],
)
def test_what_the_encoder_does_not_compute_is_refused_by_name(config, changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf_config(to_hf_config(config) | changes)


def test_settings_of_training_change_no_configuration():
    dropout = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "classifier_dropout": 0.2}
    assert from_hf_config(to_hf_config(BERT) | dropout | {"problem_type": "regression", "pad_token_id": 3}) == BERT
