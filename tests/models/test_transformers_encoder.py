"""Our BERT and RoBERTa against Hugging Face's, on the same random weights and padded texts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ENCODERS, Encoder, EncoderConfig, count_parameters, from_hf_state_dict, to_hf_state_dict
from models.hf_config import from_hf_config, to_hf_config
from models.hf_folder import Weights, read_settings, write_folder

REASON = "parity with Hugging Face needs PyTorch: pip install '.[parity]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

BERT = EncoderConfig(
    vocab_size=101,
    hidden_size=32,
    intermediate_size=88,
    num_heads=4,
    num_layers=3,
    max_positions=20,
    num_labels=3,
    init_std=0.4,  # attention far from uniform, and texts far from each other
)
CONFIGS = {
    "bert": BERT,
    "roberta": dataclasses.replace(BERT, family="roberta", num_types=1, norm_eps=1e-5),
    "regression": dataclasses.replace(BERT, num_labels=1),
}
KINDS = {
    "bert": ("BertConfig", "BertModel", "BertForSequenceClassification"),
    "roberta": ("RobertaConfig", "RobertaModel", "RobertaForSequenceClassification"),
}
LENGTHS = (20, 13, 1)


def hf_config(config):
    """Theirs, from the config.json that we write."""
    kind = getattr(transformers, KINDS[config.family][0])
    return kind.from_dict(to_hf_config(config) | {"attn_implementation": "eager"})


def numpy_dict(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def encoder_of(theirs, config):
    return getattr(theirs, config.family)


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS, scope="module")
def pair(request):
    """Our config, their classifier, and our model with a copy of its weights."""
    config = request.param
    torch.manual_seed(0)
    theirs = getattr(transformers, KINDS[config.family][2])(hf_config(config))
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            # Ones and zeros from the start would hide a norm or a bias in the wrong place.
            if "LayerNorm.weight" in name:
                weight.uniform_(0.5, 1.5)
            elif "bias" in name:
                weight.normal_(std=0.3)
    ours = Encoder(config, rngs=nnx.Rngs(0))
    nnx.update(ours, jax.tree.map(jnp.asarray, from_hf_state_dict(config, numpy_dict(theirs.state_dict()))))
    return config, theirs, ours


@pytest.fixture(scope="module")
def texts(pair):
    """Tokens, mask and types of texts of several lengths, padded as each family pads."""
    config = pair[0]
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, config.vocab_size, (len(LENGTHS), config.max_positions))
    mask = np.arange(config.max_positions) < np.asarray(LENGTHS)[:, None]
    types = rng.integers(0, config.num_types, tokens.shape)
    return np.where(mask, tokens, {"bert": 0, "roberta": 1}[config.family]), mask, types


def ours_of(texts):
    tokens, mask, types = texts
    return (jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)), {"types_BT": jnp.asarray(types, jnp.int32)}


def theirs_of(texts):
    tokens, mask, types = (torch.from_numpy(array) for array in texts)
    return {"input_ids": tokens, "attention_mask": mask.long(), "token_type_ids": types}


def test_hidden_states_and_logits_are_those_of_hugging_face(pair, texts):
    config, theirs, ours = pair
    (tokens, mask), types = ours_of(texts)
    with torch.no_grad():
        hidden = encoder_of(theirs, config)(**theirs_of(texts)).last_hidden_state.numpy()
        logits = theirs(**theirs_of(texts)).logits.numpy()
    # Tokens differ, and so do texts.
    assert np.std(hidden, axis=(0, 1)).mean() > 0.1
    assert np.std(logits, axis=0).max() > 0.1
    # Those of padding, too: its positions and its types are the same.
    np.testing.assert_allclose(ours(tokens, mask, **types), hidden, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.classify(tokens, mask, **types), logits, rtol=0, atol=1e-4)


def gradients(ours, loss):
    graphdef, params = nnx.split(ours)
    return nnx.to_pure_dict(jax.jit(jax.grad(lambda params: loss(nnx.merge(graphdef, params))))(params))


def assert_gradients_agree(ours, expected):
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def check(path, ours, theirs):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # A softmax does not see the bias of the keys: its gradient is the roundings of a zero.
        bound = 1e-6 * scale if name.endswith("k/bias") else 1e-4 * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=name)
        assert name.endswith("k/bias") or np.any(theirs != 0), name

    jax.tree.map_with_path(check, ours, expected)


def test_gradients_of_every_weight_through_the_head(pair, texts):
    config, theirs, ours = pair
    (tokens, mask), types = ours_of(texts)
    labels = np.arange(len(LENGTHS)) % config.num_labels
    theirs.zero_grad()
    if config.num_labels == 1:
        targets = np.asarray([0.3, -1.0, 2.0], np.float32)
        theirs(**theirs_of(texts), labels=torch.from_numpy(targets)).loss.backward()
        found = gradients(ours, lambda m: ((m.classify(tokens, mask, **types)[:, 0] - targets) ** 2).mean())
    else:
        theirs(**theirs_of(texts), labels=torch.from_numpy(labels)).loss.backward()
        chosen = jnp.asarray(labels)[:, None]

        def loss(model):
            log_p = jax.nn.log_softmax(model.classify(tokens, mask, **types))
            return -jnp.take_along_axis(log_p, chosen, axis=-1).mean()

        found = gradients(ours, loss)
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert_gradients_agree(found, from_hf_state_dict(config, numpy_dict(expected)))


def test_gradients_of_every_weight_through_all_tokens(pair, texts):
    config, theirs, ours = pair
    (tokens, mask), types = ours_of(texts)
    direction = np.random.default_rng(1).normal(size=(*tokens.shape, config.hidden_size)).astype(np.float32)
    direction *= texts[1][..., None]
    theirs.zero_grad()
    encoder = encoder_of(theirs, config)
    (encoder(**theirs_of(texts)).last_hidden_state * torch.from_numpy(direction)).sum().backward()
    alone = dataclasses.replace(config, num_labels=None)
    grads = {name: weight.grad for name, weight in encoder.named_parameters() if "pooler" not in name}
    found = gradients(ours, lambda model: (model(tokens, mask, **types) * direction).sum())
    np.testing.assert_array_equal(found.pop("head")["dense"]["kernel"], 0)
    assert_gradients_agree(found, from_hf_state_dict(alone, numpy_dict(grads)))


def test_a_folder_of_hugging_face_is_read_with_and_without_a_head(pair, tmp_path):
    config, theirs, ours = pair
    theirs.save_pretrained(tmp_path / "classifier")
    assert from_hf_config(read_settings(tmp_path / "classifier")) == config
    expected = nnx.to_pure_dict(nnx.state(ours))
    params = from_hf_state_dict(config, Weights(tmp_path / "classifier"))
    jax.tree.map(np.testing.assert_array_equal, params, expected)

    encoder_of(theirs, config).save_pretrained(tmp_path / "encoder")
    alone = from_hf_config(read_settings(tmp_path / "encoder"))
    assert alone == dataclasses.replace(config, num_labels=None)
    params = from_hf_state_dict(alone, Weights(tmp_path / "encoder"))
    del expected["head"]
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_hugging_face_reads_a_folder_of_ours(pair, texts, tmp_path):
    config, theirs, ours = pair
    folder = tmp_path / "exported"
    write_folder(folder, to_hf_config(config), to_hf_state_dict(config, nnx.state(ours)))
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.config.num_labels == config.num_labels
    weights = dict(theirs.named_parameters())
    for name, weight in loaded.named_parameters():
        np.testing.assert_array_equal(weight.detach().numpy(), weights.pop(name).detach().numpy(), err_msg=name)
    assert not weights
    loaded.train()  # no dropout is written, so that it changes nothing
    with torch.no_grad():
        expected = theirs(**theirs_of(texts)).logits.numpy()
        np.testing.assert_allclose(loaded(**theirs_of(texts)).logits.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("labels", [None, 3], ids=["alone", "with a head"])
@pytest.mark.parametrize("name", ENCODERS)
def test_presets_have_as_many_parameters_as_those_of_transformers(name, labels):
    config = dataclasses.replace(ENCODERS[name], num_labels=labels)
    _, alone, with_head = KINDS[config.family]
    with torch.device("meta"):
        settings = hf_config(config)
        if labels is None:
            theirs = getattr(transformers, alone)(settings, add_pooling_layer=False)
        else:
            theirs = getattr(transformers, with_head)(settings)
    assert count_parameters(config) == sum(weight.numel() for weight in theirs.parameters())
