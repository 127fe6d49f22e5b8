"""The encoder: its layout, padding, and its numerics under every dtype."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.blocks import Placement
from models.encoder import Encoder, mean_pooled
from tests.models.small import BERT, ENCODER_PAIR, flat_state, make, shaken

LENGTHS = (12, 7)
PATHS = {
    "embed/embedding": (61, 16),
    "positions/embedding": (14, 16),
    "types/embedding": (2, 16),
    "embed_norm/scale": (16,),
    "embed_norm/bias": (16,),
    **{f"layers/attention/{name}/kernel": (3, 16, 16) for name in "qkvo"},
    **{f"layers/attention/{name}/bias": (3, 16) for name in "qkvo"},
    "layers/attention_norm/scale": (3, 16),
    "layers/attention_norm/bias": (3, 16),
    "layers/mlp/up/kernel": (3, 16, 24),
    "layers/mlp/up/bias": (3, 24),
    "layers/mlp/down/kernel": (3, 24, 16),
    "layers/mlp/down/bias": (3, 16),
    "layers/mlp_norm/scale": (3, 16),
    "layers/mlp_norm/bias": (3, 16),
    "head/dense/kernel": (16, 16),
    "head/dense/bias": (16,),
    "head/out/kernel": (16, 3),
    "head/out/bias": (3,),
}

encode = jax.jit(lambda model, *texts: model(*texts))
classify = jax.jit(lambda model, *texts: model.classify(*texts))


@functools.partial(jax.jit, static_argnums=0)
def gradients(config, params, *texts):
    """Gradients of a cross-entropy."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(config, 0)))
    return jax.grad(lambda p: -jax.nn.log_softmax(nnx.merge(graphdef, p).classify(*texts))[:, 0].mean())(params)


@pytest.fixture(params=ENCODER_PAIR.values(), ids=ENCODER_PAIR, scope="module")
def config(request):
    return request.param


@pytest.fixture(scope="module")
def model(config):
    return shaken(make(config, 0))


@pytest.fixture(scope="module")
def texts():
    """Tokens and mask of texts of 12 and 7 tokens."""
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 3, BERT.vocab_size)
    return tokens, jnp.arange(12)[None] < jnp.asarray(LENGTHS)[:, None]


def test_state_is_params_with_documented_paths_and_stacked_layers():
    leaves = flat_state(make(BERT, 0))
    assert {path: leaf.shape for path, leaf in leaves.items()} == PATHS
    assert all(type(leaf) is nnx.Param for leaf in leaves.values())


def test_weights_start_as_those_of_bert():
    for path, leaf in flat_state(make(dataclasses.replace(BERT, hidden_size=128, init_std=0.02), 0)).items():
        value = np.asarray(leaf)
        if path.endswith(("scale", "bias")):
            np.testing.assert_array_equal(value, float(path.endswith("scale")))
        else:
            # 5 standard errors of a standard deviation from n draws: 5 / sqrt(2 n).
            assert value.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * value.size))


def test_hidden_states_and_logits_are_float32_of_the_documented_shapes(model, texts):
    hidden, logits = encode(model, *texts), classify(model, *texts)
    assert (hidden.shape, hidden.dtype) == ((2, 12, 16), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)


def test_a_padded_text_is_what_it_is_alone(model, texts):
    tokens, mask = texts
    alone = encode(model, tokens[1:, :7], mask[1:, :7])
    np.testing.assert_allclose(encode(model, *texts)[1, :7], alone[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        classify(model, *texts)[1], classify(model, tokens[1:, :7], mask[1:, :7])[0], rtol=1e-5, atol=1e-5
    )


def test_what_the_padding_holds_changes_nothing(model, texts):
    tokens, mask = texts
    other = jnp.where(mask, tokens, 0)
    assert np.any(other != tokens)
    np.testing.assert_array_equal(classify(model, other, mask), classify(model, *texts))
    table = flat_state(gradients(model.config, nnx.state(model), other, mask))["embed/embedding"]
    np.testing.assert_array_equal(np.asarray(table)[0], 0)


def test_every_token_sees_the_tokens_after_it(model, texts):
    tokens, mask = texts
    changed = tokens.at[0, 11].add(1) % BERT.vocab_size
    assert np.all(np.any(encode(model, changed, mask)[0] != encode(model, *texts)[0], axis=-1))


def test_a_mask_may_be_one_of_numbers(model, texts):
    tokens, mask = texts
    np.testing.assert_array_equal(encode(model, tokens, mask.astype(jnp.int32)), encode(model, *texts))


def test_types_are_zero_if_not_given(texts):
    model, types = shaken(make(BERT, 0)), jnp.zeros((2, 12), jnp.int32)
    typed = jax.jit(lambda model, types: model(*texts, types_BT=types))
    np.testing.assert_allclose(typed(model, types), encode(model, *texts), rtol=1e-6, atol=1e-6)
    assert not np.allclose(typed(model, types.at[:, 5:].set(1)), encode(model, *texts), atol=1e-2)


def test_only_roberta_counts_positions_from_the_first_token_of_a_text(config, model, texts):
    """A text with padding on its left."""
    tokens, mask = texts
    shifted = encode(model, jnp.roll(tokens[1:], 5, axis=1), jnp.roll(mask[1:], 5, axis=1))[0, 5:]
    is_same = np.allclose(shifted, encode(model, *texts)[1, :7], atol=1e-5)
    assert is_same == (config.family == "roberta")


def test_scan_equals_a_loop_over_layers(model, texts):
    tokens, mask = texts
    seen = []
    model(tokens, mask, Placement(stream=lambda x_BTD: seen.append(x_BTD) or x_BTD))
    x_BTD = seen[0]  # the embeddings: the others are of the scan
    for i in range(BERT.num_layers):
        x_BTD = jax.tree.map(lambda leaf, i=i: leaf[i], model.layers)(x_BTD, mask[:, None, :])
    np.testing.assert_allclose(encode(model, *texts), x_BTD, rtol=1e-5, atol=1e-5)


def test_remat_recomputes_and_changes_no_gradient(model, texts):
    config, params = dataclasses.replace(model.config, remat="block"), nnx.state(model)
    plain, remat = (gradients(c, params, *texts) for c in (model.config, config))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, remat)
    assert "prevent_cse=False" in str(jax.make_jaxpr(encode)(make(config, 0), *texts))
    assert "prevent_cse=False" not in str(jax.make_jaxpr(encode)(model, *texts))


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_bfloat16_costs_the_roundings_of_its_products(param_dtype, model, texts):
    config = dataclasses.replace(model.config, dtype="bfloat16", param_dtype=param_dtype)
    low = make(config, 0)
    assert {str(leaf.dtype) for leaf in flat_state(low).values()} == {param_dtype}
    nnx.update(low, jax.tree.map(lambda p: p.astype(param_dtype), nnx.state(model)))
    # JAX's attention widens bfloat16 scores to float32 by implicit promotion.
    with jax.numpy_dtype_promotion("standard"):
        hidden = encode(low, *texts)
        grads = jax.eval_shape(functools.partial(gradients, config), nnx.state(low), *texts)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(grads)} == {param_dtype}
    exact = encode(model, *texts)
    assert hidden.dtype == jnp.float32
    # As for the LLaMA: about ten roundings in a row, of 2^-9 each, add up in quadrature.
    error = jnp.linalg.norm(hidden - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 2**-5


def test_sentence_embeddings_are_means_of_length_one(model, texts):
    hidden = encode(model, *texts)
    pooled = mean_pooled(hidden, texts[1])
    for row, length in enumerate(LENGTHS):
        mean = np.asarray(hidden)[row, :length].mean(0)
        np.testing.assert_allclose(pooled[row], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
    empty = jax.grad(lambda hidden: mean_pooled(hidden, texts[1] & False).sum())(hidden)
    np.testing.assert_array_equal(empty, 0)


def test_a_text_longer_than_the_table_of_positions_is_refused(texts):
    with pytest.raises(ValueError, match="the texts have 12 tokens, but max_positions is 11: cut them"):
        make(dataclasses.replace(BERT, max_positions=11), 0)(*texts)


def test_an_encoder_without_a_head_does_not_classify(texts):
    with pytest.raises(ValueError, match="no head: set num_labels"):
        Encoder(dataclasses.replace(BERT, num_labels=None), rngs=nnx.Rngs(0)).classify(*texts)
