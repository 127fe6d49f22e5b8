"""Text that the LLaMA writes: greedy, sampled, in a window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.generation import generate, sample
from tests.models.small import forward
from tests.util import long_but


def greedy_rollout(model, prompt, length, window):
    """Grow the text one token at a time; when `window` tokens are exceeded, keep the last half."""
    text, start = prompt, 0
    for _ in range(length):
        if text.shape[1] - start > window:
            start = text.shape[1] - max(window // 2, 1)
        next_token = jnp.argmax(forward(model, text[:, start:])[:, -1], axis=-1)
        text = jnp.concatenate([text, next_token[:, None].astype(text.dtype)], axis=1)
    return text


@pytest.mark.parametrize("window", long_but([1, 8, 64], [1, 5, 6, 8, 9, 64]))
def test_greedy_is_the_argmax_rollout(model, tokens, window):
    prompt = tokens[:, :6]
    text = generate(model, prompt, 11, jax.random.key(0), window=window, temperature=0.0)
    assert text.dtype == prompt.dtype
    np.testing.assert_array_equal(text, greedy_rollout(model, prompt, 11, window))


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


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.6, 1), (0.7, 2), (0.9, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_tokens_of_that_probability(top_p, kept):
    probabilities = jnp.array([0.08, 0.64, 0.03, 0.25])  # the likeliest add up to 0.64, 0.89, 0.97, 1
    rows = jnp.broadcast_to(jnp.log(probabilities), (2000, 4))
    drawn = np.asarray(sample(rows, jax.random.key(0), 1.0, top_p=top_p))
    likeliest = [1, 3, 0, 2][:kept]
    assert set(np.unique(drawn)) == set(likeliest)
    share = probabilities[1] / probabilities[jnp.asarray(likeliest)].sum()
    assert np.mean(drawn == 1) == pytest.approx(float(share), abs=2.5 / np.sqrt(2000))


def test_the_temperature_comes_before_top_p():
    rows = jnp.broadcast_to(jnp.log(jnp.array([0.6, 0.4])), (500, 2))
    cold, warm = (np.unique(sample(rows, jax.random.key(0), t, top_p=0.7)) for t in (0.2, 1.0))
    assert list(cold) == [0]  # 0.6^5 : 0.4^5 is 0.88 : 0.12
    assert list(warm) == [0, 1]


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
