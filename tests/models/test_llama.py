"""The LLaMA: its layout, its numerics under every dtype, generation, and conversion of weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import CONFIGS, Llama, LlamaConfig, count_parameters, from_hf_state_dict, to_hf_state_dict
from models.generation import generate, sample
from models.llama import rope_tables, rotate

SMALL = LlamaConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    num_layers=3,
    init_std=0.2,  # large enough for attention and gradients to matter at this size
)
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
def make(config, seed):
    return Llama(config, rngs=nnx.Rngs(jax.random.key(seed)))


@jax.jit
def forward(model, tokens):
    return model(tokens)


@pytest.fixture(scope="module")
def model():
    return make(SMALL, 0)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 12), 0, SMALL.vocab_size)


def flat_state(model):
    return {"/".join(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


@functools.partial(jax.jit, static_argnums=0)
def gradients(config, params, tokens):
    """Gradients of a cross-entropy."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(config, 0)))

    def loss(params):
        log_p = jax.nn.log_softmax(nnx.merge(graphdef, params)(tokens[:, :-1]))
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()

    return jax.grad(loss)(params)


# Layout


def test_state_is_params_with_documented_paths_and_stacked_layers(model):
    leaves = flat_state(model)
    assert {path: leaf.shape for path, leaf in leaves.items()} == PATHS
    assert all(type(leaf) is nnx.Param for leaf in leaves.values())


@pytest.mark.parametrize("config", [*CONFIGS.values(), SMALL], ids=[*CONFIGS, "grouped queries"])
def test_parameter_count_is_exact(config):
    shapes = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in flat_state(shapes).values()) == count_parameters(config)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("60m", 58.07), ("130m", 134.11), ("1b", 1339.08), ("7b", 6738.42), ("70b", 68976.65)],
)
def test_sizes_are_the_published_ones(name, millions):
    assert count_parameters(CONFIGS[name]) / 1e6 == pytest.approx(millions, abs=0.01)


def test_initialisation(model):
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


# Forward and backward


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
    sin_TC, cos_TC = rope_tables(jnp.arange(12), SMALL.head_dim, SMALL.rope_theta)
    x_BTD = model.embed(tokens)
    for i in range(SMALL.num_layers):
        x_BTD = jax.tree.map(lambda leaf, i=i: leaf[i], model.layers)(x_BTD, sin_TC, cos_TC)
    np.testing.assert_allclose(forward(model, tokens), model.lm_head(model.norm(x_BTD)), rtol=1e-5, atol=1e-5)


def test_remat_recomputes_and_changes_no_gradient(model, tokens):
    config, params = dataclasses.replace(SMALL, remat=True), nnx.state(model)
    plain, remat = gradients(SMALL, params, tokens), gradients(config, params, tokens)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in flat_state(plain).values())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, remat)
    assert "prevent_cse=False" in str(jax.make_jaxpr(forward)(make(config, 0), tokens))
    assert "prevent_cse=False" not in str(jax.make_jaxpr(forward)(model, tokens))


def test_rotation_depends_on_relative_position_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 6, 1, 8))

    def scores(shift):
        tables = rope_tables(jnp.arange(6) + shift, 8, 1e4)
        return jnp.einsum("BTNH,BSNH->BNTS", rotate(q, *tables), rotate(k, *tables))

    np.testing.assert_allclose(scores(0), scores(100), atol=1e-4)
    assert not np.allclose(scores(0)[0, 0, 3], jnp.einsum("H,SH->S", q[0, 3, 0], k[0, :, 0]))


# Dtypes


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_bfloat16_compute(param_dtype, tokens, model):
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


# Configs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 18}, "multiple of num_heads"),
        ({"hidden_size": 12}, "is odd"),
        ({"num_kv_heads": 3}, "divides num_heads"),
        ({"num_layers": 0}, "num_layers must be a positive int, got 0"),
        ({"num_kv_heads": -1}, "num_kv_heads must be a positive int, got -1"),
        ({"vocab_size": 10.0}, "vocab_size must be a positive int, got 10.0"),
        ({"init_std": 0.0}, "init_std must be positive, got 0.0"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
        ({"param_dtype": "f32"}, "param_dtype must be one of float32, bfloat16, got 'f32'"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


# Generation


def greedy_rollout(model, prompt, length, window):
    """Grow the text one token at a time, one shape after the other."""
    text = prompt
    for _ in range(length):
        next_token = jnp.argmax(forward(model, text[:, -window:])[:, -1], axis=-1)
        text = jnp.concatenate([text, next_token[:, None].astype(text.dtype)], axis=1)
    return text


@pytest.mark.parametrize("window", [5, 8, 64], ids=["long prompt", "slides", "never full"])
def test_greedy_is_the_argmax_rollout(model, tokens, window):
    prompt = tokens[:, :6]
    text = generate(model, prompt, 5, jax.random.key(0), window=window, temperature=0.0)
    assert text.dtype == prompt.dtype
    np.testing.assert_array_equal(text, greedy_rollout(model, prompt, 5, window))


def test_sampling_keeps_the_prompt_and_follows_the_key(model, tokens):
    def text(seed):
        return generate(model, tokens, 20, jax.random.key(seed), window=12)

    first = text(0)
    assert first.shape == (2, 32)
    np.testing.assert_array_equal(first[:, :12], tokens)
    np.testing.assert_array_equal(first, text(0))
    assert np.any(first != text(1))
    assert np.any(first != greedy_rollout(model, tokens, 20, 12))


def test_one_compilation_for_all_temperatures_and_keys(model, tokens):
    generate.clear_cache()
    for seed, temperature in [(0, 0.0), (1, 0.7), (2, 1.0)]:
        generate(model, tokens, 3, jax.random.key(seed), window=4, temperature=temperature)
    assert generate._cache_size() == 1


def test_sample_frequencies_follow_temperature_and_top_k():
    n, logits = 4000, jnp.array([2.0, 1.0, 0.0, -1.0])
    rows = jnp.broadcast_to(logits, (n, 4))
    drawn = sample(rows, jax.random.key(0), 0.5, top_k=2)
    # Two tokens left, at odds exp(1 / 0.5); 5 standard errors of a fraction are 5 * 0.5 / sqrt(n).
    assert set(np.unique(drawn)) == {0, 1}
    assert float(jnp.mean(drawn == 0)) == pytest.approx(1 / (1 + np.exp(-2)), abs=2.5 / np.sqrt(n))
    np.testing.assert_array_equal(sample(rows, jax.random.key(0), 0.0, top_k=2), 0)


@pytest.mark.parametrize("size", [{"length": 0}, {"window": 0}, {"prompt_length": 0}])
def test_generate_rejects_empty_sizes(model, tokens, size):
    given = {"length": 2, "window": 4, "prompt_length": 3} | size
    with pytest.raises(ValueError, match="must be at least 1"):
        generate(
            model,
            tokens[:, : given["prompt_length"]],
            given["length"],
            jax.random.key(0),
            window=given["window"],
        )


# Conversion


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
    assert all(array.flags.c_contiguous for array in again.values())

    other = make(config, 1)
    nnx.update(other, jax.tree.map(jnp.asarray, params))
    np.testing.assert_array_equal(forward(other, tokens), forward(model, tokens))


def test_conversion_layout(model):
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
