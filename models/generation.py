"""Text generation with a cache of keys and values: one forward pass of one token per token.

When a text has filled the window W that the model was trained for, the cache is built anew from
the last half of it: positions stay within those of training, at the cost of one pass over W / 2
tokens for every W / 2 that are written.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from models.llama import Cache, Llama


@functools.partial(jax.jit, static_argnames=("length", "window", "top_k"))
def generate(
    model: Llama,
    prompt_BT: Array,
    length: int,
    key: Array,
    *,
    window: int,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array = 1.0,
) -> Array:
    """Extend each prompt by sampled tokens.

    Args:
      model: The model.
      prompt_BT: Tokens of the prompts, at least one each.
      length: Number of tokens to sample.
      key: Key of the draws.
      window: Number of tokens that the model sees at most: the sequence length of training. Once
        the text is longer, it sees at least the last half of them.
      temperature: Divides the logits; 0 takes the most likely token.
      top_k: Sample among the k most likely tokens only.
      top_p: Sample among the fewest tokens whose probabilities add up to this much; 1 for all.

    Returns:
      The tokens of prompts and continuations, (B, T + length).
    """
    batch, prompt_length = prompt_BT.shape
    if prompt_length < 1 or length < 1 or window < 1:
        raise ValueError(
            f"prompt length, length and window must be at least 1, got {prompt_length}, {length} "
            f"and {window}; start an empty prompt with the beginning-of-text token."
        )
    window = min(window, prompt_length + length)
    half = max(window // 2, 1)
    first = prompt_length if prompt_length <= window else half  # tokens of the prompt that are seen
    written = min(length, window - first + 1)  # before the cache is full
    stretch = window - half + 1  # tokens written from a cache that starts with `half`
    stretches = -(-(length - written) // stretch)
    room = prompt_length + written + stretches * stretch  # the last stretch may write more than asked for

    def draw(tokens_BS: Array, logits_BV: Array, position: Array | int) -> Array:
        next_B = sample(logits_BV, jax.random.fold_in(key, position), temperature, top_k, top_p)
        return tokens_BS.at[:, position].set(next_B.astype(tokens_BS.dtype))

    def write(tokens_BS: Array, end: Array | int, seen: int, count: int) -> Array:
        """Write `count` tokens from position `end` on, given the `seen` tokens before it."""
        start = end - seen
        text_BT = jax.lax.dynamic_slice_in_dim(tokens_BS, start, seen, axis=1)
        logits_BTV, cache = model.extend(text_BT, model.empty_cache(batch, window), 0)
        tokens_BS = draw(tokens_BS, logits_BTV[:, -1], end)

        def step(i: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
            tokens_BS, cache = carry
            last_B1 = jax.lax.dynamic_slice_in_dim(tokens_BS, end + i - 1, 1, axis=1)
            logits_B1V, cache = model.extend(last_B1, cache, seen + i - 1)
            return draw(tokens_BS, logits_B1V[:, 0], end + i), cache

        tokens_BS, _ = jax.lax.fori_loop(1, count, step, (tokens_BS, cache))
        return tokens_BS

    tokens_BS = jnp.pad(prompt_BT, ((0, 0), (0, room - prompt_length)))
    tokens_BS = write(tokens_BS, prompt_length, first, written)
    tokens_BS = jax.lax.fori_loop(
        0,
        stretches,
        lambda i, tokens_BS: write(tokens_BS, prompt_length + written + i * stretch, half, stretch),
        tokens_BS,
    )
    return tokens_BS[:, : prompt_length + length]


def sample(
    logits_BV: Array,
    key: Array,
    temperature: float | Array,
    top_k: int | None = None,
    top_p: float | Array = 1.0,
) -> Array:
    """Draw one token per row, (B, V) -> (B,); the argmax where the temperature is 0."""
    greedy_B = jnp.argmax(logits_BV, axis=-1)
    # At temperature 0 the draw is discarded; 1 keeps the division finite.
    logits_BV = logits_BV / jnp.where(temperature > 0, temperature, 1.0)
    if top_k is not None:
        kth_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    sampled_B = jax.random.categorical(key, _nucleus(logits_BV, top_p))
    return jnp.where(temperature > 0, sampled_B, greedy_B)


def _nucleus(logits_BV: Array, top_p: float | Array) -> Array:
    """Drop the least likely tokens, as long as the others have a probability of `top_p` (Holtzman
    et al. 2020).
    """
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    before_BV = jnp.cumsum(jax.nn.softmax(sorted_BV, axis=-1), axis=-1) - jax.nn.softmax(sorted_BV, axis=-1)
    # The most likely token stays, whatever `top_p` is.
    kept_BV = (before_BV < top_p).at[:, 0].set(True)
    least_B1 = jnp.min(jnp.where(kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
