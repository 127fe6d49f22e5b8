"""The LLaMA: its layout, and its numerics under every dtype."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import CONFIGS, Llama
from models.blocks import attend, rope_tables, rotate, within_documents
from tests.models.small import SMALL, flat_state, forward, make

PATHS = {
    "embed/embedding": (61, 16),
    "layers/attention_norm/scale": (3, 16),
    "layers/attention/q/kernel": (3, 16, 16),
    "layers/attention/k/kernel": (3, 16, 8),
    "layers/attention/v/kernel": (3, 16, 8),
    "layers/attention/o/kernel": (3, 16, 16),
    "layers/mlp_norm/scale": (3, 16),
    "layers/mlp/gate/kernel": (3, 16, 24),
    "layers/mlp/up/kernel": (3, 16, 24),
    "layers/mlp/down/kernel": (3, 24, 16),
    "norm/scale": (16,),
    "lm_head/kernel": (16, 61),
}


@functools.partial(jax.jit, static_argnums=0)
def gradients(config, params, tokens):
    """Gradients of a cross-entropy."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(config, 0)))

    def loss(params):
        log_p = jax.nn.log_softmax(nnx.merge(graphdef, params)(tokens[:, :-1]))
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()

    return jax.grad(loss)(params)


def test_state_is_params_with_documented_paths_and_stacked_layers(model):
    leaves = flat_state(model)
    assert {path: leaf.shape for path, leaf in leaves.items()} == PATHS
    assert all(type(leaf) is nnx.Param for leaf in leaves.values())


def test_weights_start_with_the_standard_deviation_of_the_config(model):
    config = dataclasses.replace(CONFIGS["tiny"], init_std=0.02)
    for path, leaf in flat_state(make(config, 0)).items():
        value = np.asarray(leaf)
        if path.endswith("scale"):
            np.testing.assert_array_equal(value, 1.0)
        else:
            # 5 standard errors of a standard deviation from n draws: 5 / sqrt(2 n).
            assert value.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * value.size))
    q = np.asarray(flat_state(model)["layers/attention/q/kernel"])
    assert not np.allclose(q[0], q[1]), "layers must not start equal"


def test_same_seed_same_weights_eager_or_jitted(model):
    eager = nnx.state(Llama(SMALL, rngs=nnx.Rngs(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), eager, nnx.state(model))
    other = flat_state(make(SMALL, 1))
    assert not np.allclose(other["lm_head/kernel"], flat_state(model)["lm_head/kernel"])


def test_logits_shape_and_dtype(model, tokens):
    logits = forward(model, tokens)
    assert logits.shape == (2, 12, 61)
    assert logits.dtype == jnp.float32


def test_a_token_does_not_change_logits_before_it(model, tokens):
    changed = tokens.at[:, 7].add(1) % SMALL.vocab_size
    before, after = forward(model, tokens), forward(model, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.all(np.any(before[:, 7:] != after[:, 7:], axis=-1))


def test_scan_equals_a_loop_over_layers(model, tokens):
    rotation = rope_tables(jnp.arange(12)[None], SMALL.head_dim, SMALL.rope_theta)

    def mix(q, k, v):
        return attend(q, k, v, kernel="xla", is_causal=True), None

    x_BTD = model.embed(tokens)
    for i in range(SMALL.num_layers):
        x_BTD, _ = jax.tree.map(lambda leaf, i=i: leaf[i], model.layers)(x_BTD, rotation, mix)
    np.testing.assert_allclose(forward(model, tokens), model.lm_head(model.norm(x_BTD)), rtol=1e-5, atol=1e-5)


def test_documents_in_one_row_are_what_they_are_alone(model, tokens):
    """Lengths 5, 4 and 3 of the first row, 7 and 5 of the second."""
    lengths = ((5, 4, 3), (7, 5))
    documents = jnp.asarray([[9] * 5 + [2] * 4 + [9] * 3, [0] * 7 + [1] * 5])
    packed = jax.jit(lambda model: model(tokens, documents_BT=documents))(model)
    for row, of_row in enumerate(lengths):
        start = 0
        for length in of_row:
            alone = forward(model, tokens[row : row + 1, start : start + length])[0]
            np.testing.assert_allclose(packed[row, start : start + length], alone, rtol=1e-5, atol=1e-5)
            start += length


def test_positions_restart_with_each_document():
    documents = jnp.asarray([[3, 3, 3, 3], [0, 1, 1, 0]])
    positions, _ = within_documents(documents)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3], [0, 0, 1, 0]])


@pytest.mark.parametrize("parts", [(12,), (5, 7), (1,) * 12, (4, 1, 1, 6)])
def test_a_text_extended_part_by_part_has_the_logits_of_the_whole(model, tokens, parts):
    cache, start, logits = model.empty_cache(2, 15), 0, []
    for count in parts:
        part, cache = jax.jit(Llama.extend)(model, tokens[:, start : start + count], cache, start)
        logits.append(part)
        start += count
    np.testing.assert_allclose(jnp.concatenate(logits, 1), forward(model, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["block", "dots"])
def test_remat_recomputes_and_changes_no_gradient(policy, model, tokens):
    config, params = dataclasses.replace(SMALL, remat=policy), nnx.state(model)
    plain, remat = gradients(SMALL, params, tokens), gradients(config, params, tokens)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in flat_state(plain).values())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, remat)
    assert "prevent_cse=False" in str(jax.make_jaxpr(forward)(make(config, 0), tokens))
    assert "prevent_cse=False" not in str(jax.make_jaxpr(forward)(model, tokens))


def test_what_is_recomputed_takes_no_memory():
    """Temporaries of a gradient: all activations, those that are products with weights, or none."""
    wide = dataclasses.replace(SMALL, hidden_size=64, intermediate_size=176, num_layers=6, num_kv_heads=None)
    params, tokens = jax.eval_shape(lambda: nnx.state(make(wide, 0))), jnp.zeros((4, 49), jnp.int32)

    def temporaries(policy):
        program = gradients.lower(dataclasses.replace(wide, remat=policy), params, tokens).compile()
        return program.memory_analysis().temp_size_in_bytes

    none, dots, block = map(temporaries, ("none", "dots", "block"))
    products = 4 * wide.num_layers * 4 * 48 * (3 * 64 + 2 * 176)  # bytes of q, k, v, gate and up
    assert none > 1.2 * dots
    assert dots - block > 0.7 * products


def test_rotation_depends_on_relative_position_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 6, 1, 8))

    def scores(shift):
        rotation = rope_tables(jnp.arange(6)[None] + shift, 8, 1e4)
        return jnp.einsum("BTNH,BSNH->BNTS", rotate(q, rotation), rotate(k, rotation))

    np.testing.assert_allclose(scores(0), scores(100), atol=1e-4)
    assert not np.allclose(scores(0)[0, 0, 3], jnp.einsum("H,SH->S", q[0, 3, 0], k[0, :, 0]))


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_bfloat16_costs_the_roundings_of_its_products(param_dtype, tokens, model):
    config = dataclasses.replace(SMALL, dtype="bfloat16", param_dtype=param_dtype)
    low = make(config, 0)
    # JAX's attention widens bfloat16 scores to float32 by implicit promotion.
    standard = jax.numpy_dtype_promotion("standard")
    assert {str(leaf.dtype) for leaf in flat_state(low).values()} == {param_dtype}
    with standard:
        grads = jax.eval_shape(functools.partial(gradients, config), nnx.state(low), tokens)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(grads)} == {param_dtype}

    nnx.update(low, jax.tree.map(lambda p: p.astype(param_dtype), nnx.state(model)))
    with standard:
        logits = forward(low, tokens)
    exact = forward(model, tokens)
    assert logits.dtype == jnp.float32
    # bfloat16 rounds to 2^-9 relative; about ten roundings in a row and a few on each path of the
    # residual stream add up in quadrature to some 2^-6 of the size of the logits.
    error = jnp.linalg.norm(logits - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 2**-5


def test_products_with_kernels_run_in_bfloat16(tokens):
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    graphdef, params = nnx.split(make(config, 0))
    with jax.numpy_dtype_promotion("standard"):
        jaxpr = str(jax.make_jaxpr(lambda p: nnx.merge(graphdef, p)(tokens))(params))
    products = [line for line in jaxpr.splitlines() if "dot_general" in line]
    # Seven kernels of a block, the head and the values of attention; its scores come out in
    # float32.
    assert sum(":bf16" in line for line in products) == 9
    assert sum(":f32" in line for line in products) == 1
