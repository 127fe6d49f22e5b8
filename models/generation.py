"""Text generation without a cache: one forward pass over a window W per token of the text S."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from models.llama import Llama


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
) -> Array:
    """Extend each prompt by sampled tokens.

    Args:
      model: The model.
      prompt_BT: Tokens of the prompts, at least one each.
      length: Number of tokens to sample.
      key: Key of the draws.
      window: Number of preceding tokens that the model sees: the sequence length of training.
      temperature: Divides the logits; 0 takes the most likely token.
      top_k: Sample among the k most likely tokens only.

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
    tokens_BS = jnp.pad(prompt_BT, ((0, 0), (0, length)))

    def step(position: Array, tokens_BS: Array) -> Array:
        # Before the window is full, its tail holds zeros, which causal attention hides.
        start = jnp.maximum(position - window, 0)
        seen_BW = jax.lax.dynamic_slice(tokens_BS, (0, start), (batch, window))
        logits_BV = model(seen_BW)[:, position - 1 - start]
        next_B = sample(logits_BV, jax.random.fold_in(key, position), temperature, top_k)
        return tokens_BS.at[:, position].set(next_B.astype(tokens_BS.dtype))

    text_BS: Array = jax.lax.fori_loop(prompt_length, prompt_length + length, step, tokens_BS)
    return text_BS


def sample(logits_BV: Array, key: Array, temperature: float | Array, top_k: int | None = None) -> Array:
    """Draw one token per row, (B, V) -> (B,); the argmax where the temperature is 0."""
    greedy_B = jnp.argmax(logits_BV, axis=-1)
    if top_k is not None:
        kth_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    # At temperature 0 the draw is discarded; 1 keeps the division finite.
    sampled_B = jax.random.categorical(key, logits_BV / jnp.where(temperature > 0, temperature, 1.0))
    return jnp.where(temperature > 0, sampled_B, greedy_B)
