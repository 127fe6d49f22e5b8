"""LLaMA and Qwen2 in Flax NNX: one block, stacked along a leading layer axis and scanned over the
layers. A Qwen2 is a LLaMA whose queries, keys and values have biases.

Kernels are (in, out); in `layers` every parameter has a leading axis L. Products and the residual
stream have the compute dtype; norms, rotations, the softmax and the returned logits are float32.
Shape suffixes: see `models.blocks`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.blocks import (
    ANYWHERE,
    Placement,
    Rotation,
    attend,
    embedding,
    linear,
    rematerialized,
    rope_tables,
    rotate,
    stacked,
    within_documents,
)
from models.config import LlamaConfig
from models.cross_entropy import Head

# (queries, keys, values) -> the mixed values, and what is kept of keys and values.
Mix = Callable[[Array, Array, Array], tuple[Array, Any]]


class Cache(NamedTuple):
    """The keys and values (L, B, S, K, H) of the S positions that a text may have."""

    keys: Array
    values: Array


class Context(NamedTuple):
    """What all blocks read of a batch: the rotation of each position, and which tokens (B, T, S)
    are of the same document; None for all.
    """

    rotation: Rotation
    mask_BTS: Array | None


def _norm(config: LlamaConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    # The output is float32: the Linear that reads it casts to the compute dtype.
    return nnx.RMSNorm(
        config.hidden_size,
        epsilon=config.rms_norm_eps,
        dtype=jnp.float32,
        param_dtype=jnp.dtype(config.param_dtype),
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Attention with rotary positions; N / K query heads share one key and value head."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        width, kv_width = config.hidden_size, config.kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q = linear(config, width, width, rngs, bias=config.qkv_bias)
        self.k = linear(config, width, kv_width, rngs, bias=config.qkv_bias)
        self.v = linear(config, width, kv_width, rngs, bias=config.qkv_bias)
        self.o = linear(config, width, width, rngs)

    def __call__(self, x_BTD: Array, rotation: Rotation, mix: Mix, place: Placement = ANYWHERE) -> tuple[Array, Any]:
        """Mix positions: (B, T, D) -> (B, T, D), and what `mix` keeps."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        v_BTKH = self.v(x_BTD).reshape(heads)
        q_BTNH = rotate(self.q(x_BTD).reshape(heads), rotation).astype(v_BTKH.dtype)
        k_BTKH = rotate(self.k(x_BTD).reshape(heads), rotation).astype(v_BTKH.dtype)
        out_BTNH, kept = mix(q_BTNH, k_BTKH, v_BTKH)
        return self.o(place.heads(out_BTNH.reshape(x_BTD.shape))), kept


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.gate = linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.up = linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.down = linear(config, config.intermediate_size, config.hidden_size, rngs)

    def __call__(self, x_BTD: Array) -> Array:
        """Mix features: (B, T, D) -> (B, T, D)."""
        h_BTF = jax.nn.silu(self.gate(x_BTD)) * self.up(x_BTD)
        return self.down(h_BTF)


class Block(nnx.Module):
    """One layer: attention, then SwiGLU, each on the normalised residual stream."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = SwiGLU(config, rngs=rngs)

    def __call__(self, x_BTD: Array, rotation: Rotation, mix: Mix, place: Placement = ANYWHERE) -> tuple[Array, Any]:
        """Advance the residual stream: (B, T, D) -> (B, T, D), and what `mix` keeps."""
        mixed_BTD, kept = self.attention(self.attention_norm(x_BTD), rotation, mix, place)
        x_BTD += mixed_BTD
        x_BTD += self.mlp(self.mlp_norm(x_BTD))
        return x_BTD, kept


def advance(config: LlamaConfig, block: Block, x_BTD: Array, context: Context, place: Placement = ANYWHERE) -> Array:
    """Return the output (B, T, D) of a block for whole rows of text."""

    def mix(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array) -> tuple[Array, None]:
        mixed = attend(q_BTNH, k_BTKH, v_BTKH, kernel=config.attention, is_causal=True, mask_BTS=context.mask_BTS)
        return mixed, None

    x_BTD, _ = block(x_BTD, context.rotation, mix, place)
    return place.stream(x_BTD)


class Llama(nnx.Module):
    """A decoder that maps tokens (B, T) to next-token logits (B, T, V)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = embedding(config, config.vocab_size, config.hidden_size, rngs)
        self.layers = stacked(lambda rngs: Block(config, rngs=rngs), config.num_layers, rngs)
        self.norm = _norm(config, rngs)
        if not config.tied_head:
            self.lm_head = linear(config, config.hidden_size, config.vocab_size, rngs)

    def __call__(self, tokens_BT: Array, place: Placement = ANYWHERE, *, documents_BT: Array | None = None) -> Array:
        """Return the float32 logits (B, T, V) of the token after each position; arguments are those
        of `hidden`.
        """
        return self.logits(self.hidden(tokens_BT, place, documents_BT=documents_BT), place)

    def hidden(self, tokens_BT: Array, place: Placement = ANYWHERE, *, documents_BT: Array | None = None) -> Array:
        """Return the normalised hidden states (B, T, D) after the last block, float32.

        Args:
          tokens_BT: Tokens.
          place: Sharding constraints.
          documents_BT: The number of the document of each token, if rows hold several. A token sees
            only its own document, where its position counts from 0.
        """
        x_BTD, context = self.begin(tokens_BT, place, documents_BT=documents_BT)

        def step(x_BTD: Array, block: Block) -> tuple[Array, None]:
            return advance(self.config, block, x_BTD, context, place), None

        x_BTD, _ = jax.lax.scan(rematerialized(step, self.config.remat), x_BTD, self.layers)
        return self.norm(x_BTD)

    def begin(
        self, tokens_BT: Array, place: Placement = ANYWHERE, *, documents_BT: Array | None = None
    ) -> tuple[Array, Context]:
        """Return the input (B, T, D) of the first block, and what all blocks read; arguments are
        those of `hidden`.
        """
        if documents_BT is None:
            positions_BT, mask_BTS = jnp.arange(tokens_BT.shape[1])[None], None
        else:
            positions_BT, mask_BTS = within_documents(documents_BT)
        return self._embedded(tokens_BT, place), Context(self._rotation(positions_BT), mask_BTS)

    @property
    def head(self) -> Head:
        """The output head, for `models.cross_entropy`."""
        if self.config.tied_head:
            return Head(self.embed.embedding[...], "VD")
        return Head(self.lm_head.kernel[...])

    def empty_cache(self, batch: int, positions: int) -> Cache:
        """Return the cache of `batch` texts of up to `positions` tokens each."""
        config = self.config
        shape = (config.num_layers, batch, positions, config.kv_heads, config.head_dim)
        return Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))

    def extend(self, tokens_BT: Array, cache: Cache, start: Array | int) -> tuple[Array, Cache]:
        """Return the logits (B, T, V) of tokens at positions `start` to `start + T - 1`, whose text
        before them is in the cache, and the cache with them.
        """
        steps = tokens_BT.shape[1]
        positions_1T = start + jnp.arange(steps)[None]
        seen_1TS = jnp.arange(cache.keys.shape[2])[None, None] <= positions_1T[:, :, None]

        def mix(cache: Cache, q_BTNH: Array, k_BTKH: Array, v_BTKH: Array) -> tuple[Array, Cache]:
            k_BSKH, v_BSKH = (
                jax.lax.dynamic_update_slice_in_dim(kept, new, start, axis=1)
                for kept, new in zip(cache, (k_BTKH, v_BTKH), strict=True)
            )
            # A single query gains nothing from a fused kernel.
            return attend(q_BTNH, k_BSKH, v_BSKH, kernel="xla", mask_BTS=seen_1TS), Cache(k_BSKH, v_BSKH)

        rotation = self._rotation(positions_1T)

        def step(x_BTD: Array, layer: tuple[Block, Cache]) -> tuple[Array, Cache]:
            block, cache_of_layer = layer
            return block(x_BTD, rotation, functools.partial(mix, cache_of_layer))

        x_BTD, cache = jax.lax.scan(step, self._embedded(tokens_BT, ANYWHERE), (self.layers, cache))
        return self.logits(self.norm(x_BTD)), cache

    def _rotation(self, positions_BT: Array) -> Rotation:
        config = self.config
        return rope_tables(positions_BT, config.head_dim, config.rope_theta, config.rope_scaling)

    def _embedded(self, tokens_BT: Array, place: Placement) -> Array:
        # After the look-up, so that gradients of repeated tokens add up in the parameter dtype.
        return place.stream(place.embedded(self.embed(tokens_BT).astype(self.config.dtype)))

    def logits(self, x_BTD: Array, place: Placement = ANYWHERE) -> Array:
        """Return the float32 logits (B, T, V) of normalised hidden states."""
        if self.config.tied_head:
            embedding_VD = self.embed.embedding[...].astype(self.config.dtype)
            logits_BTV = x_BTD.astype(self.config.dtype) @ embedding_VD.T
        else:
            logits_BTV = self.lm_head(x_BTD)
        return place.stream(logits_BTV.astype(jnp.float32))
