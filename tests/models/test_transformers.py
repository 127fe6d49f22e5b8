"""Our LLaMA and Qwen2 against Hugging Face's, on the same random weights."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import Llama, LlamaConfig, from_hf_state_dict, to_hf_state_dict
from models.blocks import rope_frequencies, rope_tables, rotate
from models.config import RopeScaling
from models.hf_config import from_hf_config, to_hf_config
from models.hf_folder import FolderError, Weights, read_settings, write_folder

REASON = "parity with Hugging Face needs PyTorch: pip install '.[parity]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

MULTI_HEAD = LlamaConfig(
    vocab_size=101,
    hidden_size=32,
    intermediate_size=88,
    num_heads=4,
    num_layers=3,
    rms_norm_eps=1e-5,
    rope_theta=500.0,  # not the default, and fast enough for every pair to turn within the sequence
    init_std=0.2,  # logits of order one, attention far from uniform
)
LLAMA3 = RopeScaling(kind="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0, original_positions=16)
CONFIGS = {
    "multi-head": MULTI_HEAD,
    "grouped queries": dataclasses.replace(MULTI_HEAD, num_kv_heads=2, rope_theta=1e4),
    "Qwen2": dataclasses.replace(MULTI_HEAD, num_kv_heads=2, qkv_bias=True, tied_head=True),
    "Llama 3": dataclasses.replace(MULTI_HEAD, num_kv_heads=2, tied_head=True, rope_scaling=LLAMA3),
    "linear": dataclasses.replace(MULTI_HEAD, rope_scaling=RopeScaling(kind="linear", factor=2.0)),
}
BATCH, LENGTH = 2, 24


def hf_config(config):
    """Theirs, from the config.json that we write."""
    settings = to_hf_config(config, max_positions=2048)
    kind = transformers.Qwen2Config if settings["model_type"] == "qwen2" else transformers.LlamaConfig
    return kind.from_dict(settings | {"attn_implementation": "eager"})


def hf_model(config):
    kind = transformers.Qwen2ForCausalLM if config.qkv_bias else transformers.LlamaForCausalLM
    return kind(hf_config(config))


def numpy_dict(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys(), scope="module")
def pair(request):
    """Our config, their model, and our model with a copy of its weights."""
    config = request.param
    torch.manual_seed(0)
    theirs = hf_model(config)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "norm" in name:  # ones from the start would hide a norm in the wrong place
                weight.uniform_(0.5, 1.5)
            if "bias" in name:
                weight.normal_()
    ours = Llama(config, rngs=nnx.Rngs(0))
    params = from_hf_state_dict(config, numpy_dict(theirs.state_dict()))
    nnx.update(ours, jax.tree.map(jnp.asarray, params))
    return config, theirs, ours


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, MULTI_HEAD.vocab_size, (BATCH, LENGTH))


def test_logits_are_those_of_hugging_face(pair, tokens):
    _, theirs, ours = pair
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    assert np.std(expected) > 0.5
    logits = ours(jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_gradients_of_every_weight(pair, tokens):
    config, theirs, ours = pair
    theirs.zero_grad()
    theirs(torch.from_numpy(tokens), labels=torch.from_numpy(tokens)).loss.backward()
    expected = from_hf_state_dict(config, numpy_dict({name: weight.grad for name, weight in theirs.named_parameters()}))
    graphdef, params = nnx.split(ours)
    inputs, targets = jnp.asarray(tokens[:, :-1], jnp.int32), jnp.asarray(tokens[:, 1:], jnp.int32)

    def loss(params):
        log_p = jax.nn.log_softmax(nnx.merge(graphdef, params)(inputs))
        return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean()

    assert_gradients_agree(nnx.to_pure_dict(jax.jit(jax.grad(loss))(params)), expected)


def assert_gradients_agree(ours, expected):
    def check(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())

    jax.tree.map(check, ours, expected)


LENGTHS = np.asarray([LENGTH, 13, 2])


@pytest.fixture(scope="module")
def padded():
    """Rows of three lengths, padded on the right with tokens that would show; which are text."""
    tokens = np.random.default_rng(1).integers(0, MULTI_HEAD.vocab_size, (len(LENGTHS), LENGTH))
    return tokens, np.arange(LENGTH) < LENGTHS[:, None]


def test_logits_and_gradients_of_padded_rows_are_those_of_hugging_face(pair, padded):
    """Padding is a document of its own here, and masked there."""
    config, theirs, ours = pair
    tokens, is_text = padded
    theirs.zero_grad()
    logits = theirs(torch.from_numpy(tokens), attention_mask=torch.from_numpy(is_text).long()).logits
    labels = np.where(is_text, tokens, -100)[:, 1:]  # which their loss leaves out
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.from_numpy(labels.flatten())).backward()
    graphdef, params = nnx.split(ours)
    documents = jnp.asarray(np.where(is_text, 0, -1), jnp.int32)
    targets, is_target = jnp.asarray(tokens[:, 1:], jnp.int32), jnp.asarray(is_text[:, 1:])

    def loss(params):
        logits = nnx.merge(graphdef, params)(jnp.asarray(tokens, jnp.int32), documents_BT=documents)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), targets[..., None], axis=-1)[..., 0]
        return -jnp.mean(log_p, where=is_target), logits

    gradients, found = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(found[is_text], logits.detach().numpy()[is_text], rtol=0, atol=1e-4)
    expected = numpy_dict({name: weight.grad for name, weight in theirs.named_parameters()})
    assert_gradients_agree(nnx.to_pure_dict(gradients), from_hf_state_dict(config, expected))


def test_rotation_at_distant_positions(pair):
    config, theirs, _ = pair
    modeling = transformers.models.llama.modeling_llama
    positions = np.array([0, 1, 7, 250, 2047])
    x_BTNH = np.random.default_rng(0).normal(size=(1, 5, 4, config.head_dim)).astype(np.float32)

    cos, sin = theirs.model.rotary_emb(torch.zeros(1), torch.from_numpy(positions)[None])
    heads_first = torch.from_numpy(x_BTNH).transpose(1, 2)
    expected, _ = modeling.apply_rotary_pos_emb(heads_first, heads_first, cos, sin)

    rotation = rope_tables(jnp.asarray(positions)[None], config.head_dim, config.rope_theta, config.rope_scaling)
    # One rounding of a frequency, 2^-24 relative, is 1e-4 of an angle after 2047 positions.
    turned = rotate(jnp.asarray(x_BTNH), rotation)
    np.testing.assert_allclose(turned, expected.transpose(1, 2).numpy(), rtol=0, atol=1e-3)


def test_frequencies_are_those_of_hugging_face(pair):
    config, theirs, _ = pair
    frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    np.testing.assert_allclose(frequencies, theirs.model.rotary_emb.inv_freq.numpy(), rtol=1e-6)


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"], ids=["one file", "an index"])
def test_a_folder_of_hugging_face_is_read(pair, tmp_path, shard_size):
    config, theirs, ours = pair
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard_size == "20KB"
    found = from_hf_config(read_settings(tmp_path))
    assert found == config
    params = from_hf_state_dict(found, Weights(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, params, nnx.to_pure_dict(nnx.state(ours)))


def test_converting_pickled_weights_as_advised_keeps_them_all(pair, tmp_path):
    config, theirs, ours = pair
    old, new = tmp_path / "old", tmp_path / "new"
    theirs.save_pretrained(old)
    torch.save(theirs.state_dict(), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    with pytest.raises(FolderError) as refused:
        Weights(old)
    (kind,) = re.findall(r"Transformers: (\w+)\.from_pretrained\(FOLDER\)\.save_pretrained\(NEW\)", str(refused.value))
    getattr(transformers, kind).from_pretrained(old).save_pretrained(new)
    params = from_hf_state_dict(config, Weights(new))
    jax.tree.map(np.testing.assert_array_equal, params, nnx.to_pure_dict(nnx.state(ours)))


def test_hugging_face_reads_a_folder_of_ours(pair, tokens, tmp_path):
    """The same greedy tokens, and the same weights when it is read again."""
    config, theirs, ours = pair
    folder = tmp_path / "exported"
    write_folder(folder, to_hf_config(config, 2048), to_hf_state_dict(config, nnx.state(ours)))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for (name, a), (_, b) in zip(loaded.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy(), err_msg=name)
    with torch.no_grad():
        expected = loaded(torch.from_numpy(tokens)).logits.numpy()
    logits = ours(jnp.asarray(tokens, jnp.int32))
    np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(expected, -1))
    assert from_hf_config(json.loads((folder / "config.json").read_text())) == config
    again = from_hf_state_dict(config, Weights(folder))
    jax.tree.map(np.testing.assert_array_equal, again, nnx.to_pure_dict(nnx.state(ours)))
