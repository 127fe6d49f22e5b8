"""Our LLaMA against Hugging Face's, on the same random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import Llama, LlamaConfig, from_hf_state_dict
from models.llama import rope_tables, rotate

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
CONFIGS = {
    "multi-head": MULTI_HEAD,
    "grouped queries": dataclasses.replace(MULTI_HEAD, num_kv_heads=2, rope_theta=1e4),
}
BATCH, LENGTH = 2, 24


def hf_config(config):
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        initializer_range=config.init_std,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


def numpy_dict(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys(), scope="module")
def pair(request):
    """Our config, their model, and our model with a copy of its weights."""
    config = request.param
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(hf_config(config))
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "norm" in name:  # ones from the start would hide a norm in the wrong place
                weight.uniform_(0.5, 1.5)
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

    gradients = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))

    def check(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())

    jax.tree.map(check, gradients, expected)


def test_rotation_at_distant_positions(pair):
    config, theirs, _ = pair
    modeling = transformers.models.llama.modeling_llama
    positions = np.array([0, 1, 7, 250, 2047])
    x_BTNH = np.random.default_rng(0).normal(size=(1, 5, 4, config.head_dim)).astype(np.float32)

    cos, sin = theirs.model.rotary_emb(torch.zeros(1), torch.from_numpy(positions)[None])
    heads_first = torch.from_numpy(x_BTNH).transpose(1, 2)
    expected, _ = modeling.apply_rotary_pos_emb(heads_first, heads_first, cos, sin)

    tables = rope_tables(jnp.asarray(positions), config.head_dim, config.rope_theta)
    # One rounding of a frequency, 2^-24 relative, is 1e-4 of an angle after 2047 positions.
    turned = rotate(jnp.asarray(x_BTNH), *tables)
    np.testing.assert_allclose(turned, expected.transpose(1, 2).numpy(), rtol=0, atol=1e-3)
