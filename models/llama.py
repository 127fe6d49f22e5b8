"""LLaMA and Qwen2 in Flax NNX: one block, stacked along a leading layer axis and scanned over the
layers. A Qwen2 is a LLaMA whose queries, keys and values have biases.

Shape suffixes of local names:
    B batch   T position   V vocabulary   D hidden    F intermediate   L layer
    N heads   K key and value heads       H features of a head         C = H / 2 rotated pairs

Kernels are (in, out); in `layers` every parameter has a leading axis L. Products and the residual
stream have the compute dtype; norms, rotations, the softmax and the returned logits are float32.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from models.config import LlamaConfig, RopeScaling


def _anywhere(x: Array) -> Array:
    return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Sharding constraints to apply to activations; by default none."""

    embedded: Callable[[Array], Array] = _anywhere  # the embeddings (B, T, D) after the look-up
    stream: Callable[[Array], Array] = _anywhere  # the residual stream (B, T, D) between blocks, and the logits
    heads: Callable[[Array], Array] = _anywhere  # the output of the heads (B, T, N H), and its gradient


ANYWHERE = Placement()


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Return theta^(-2c / head_dim) for each pair c, scaled, in float64 (Su et al. 2021)."""
    frequency_C = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return frequency_C
    if scaling.kind == "linear":
        return frequency_C / scaling.factor
    turns_C = frequency_C * scaling.original_positions / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept_C = np.clip((turns_C - low) / (high - low), 0, 1)
    return frequency_C * (kept_C + (1 - kept_C) / scaling.factor)


def rope_tables(
    positions_T: Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Array, Array]:
    """Return (sin_TC, cos_TC), float32, of position * frequency."""
    frequency_C = jnp.asarray(rope_frequencies(head_dim, theta, scaling), jnp.float32)
    angle_TC = jnp.outer(positions_T.astype(jnp.float32), frequency_C)
    return jnp.sin(angle_TC), jnp.cos(angle_TC)


def rotate(x_BTNH: Array, sin_TC: Array, cos_TC: Array) -> Array:
    """Rotate each pair (x[c], x[c + H/2]) by its angle; returns the same shape, in float32."""
    sin_1T1C, cos_1T1C = sin_TC[None, :, None, :], cos_TC[None, :, None, :]
    a_BTNC, b_BTNC = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = (a_BTNC * cos_1T1C - b_BTNC * sin_1T1C, b_BTNC * cos_1T1C + a_BTNC * sin_1T1C)
    return jnp.concatenate(rotated, axis=-1)


def _linear(config: LlamaConfig, inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = False) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        kernel_init=jax.nn.initializers.normal(config.init_std),
        rngs=rngs,
    )


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
    """Causal attention with rotary positions; N / K query heads share one key and value head."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        width, kv_width = config.hidden_size, config.kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q = _linear(config, width, width, rngs, bias=config.qkv_bias)
        self.k = _linear(config, width, kv_width, rngs, bias=config.qkv_bias)
        self.v = _linear(config, width, kv_width, rngs, bias=config.qkv_bias)
        self.o = _linear(config, width, width, rngs)

    def __call__(self, x_BTD: Array, sin_TC: Array, cos_TC: Array, place: Placement = ANYWHERE) -> Array:
        """Mix positions: (B, T, D) -> (B, T, D)."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        v_BTKH = self.v(x_BTD).reshape(heads)
        q_BTNH = rotate(self.q(x_BTD).reshape(heads), sin_TC, cos_TC).astype(v_BTKH.dtype)
        k_BTKH = rotate(self.k(x_BTD).reshape(heads), sin_TC, cos_TC).astype(v_BTKH.dtype)
        out_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, is_causal=True)
        return self.o(place.heads(out_BTNH.reshape(x_BTD.shape)))


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.gate = _linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.up = _linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.down = _linear(config, config.intermediate_size, config.hidden_size, rngs)

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

    def __call__(self, x_BTD: Array, sin_TC: Array, cos_TC: Array, place: Placement = ANYWHERE) -> Array:
        """Advance the residual stream: (B, T, D) -> (B, T, D)."""
        x_BTD += self.attention(self.attention_norm(x_BTD), sin_TC, cos_TC, place)
        x_BTD += self.mlp(self.mlp_norm(x_BTD))
        return x_BTD


class Llama(nnx.Module):
    """A decoder that maps tokens (B, T) to next-token logits (B, T, V)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            param_dtype=jnp.dtype(config.param_dtype),
            embedding_init=jax.nn.initializers.normal(config.init_std),
            rngs=rngs,
        )
        layer_keys = jax.random.split(rngs.params(), config.num_layers)
        self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(layer_keys)
        self.norm = _norm(config, rngs)
        if not config.tied_head:
            self.lm_head = _linear(config, config.hidden_size, config.vocab_size, rngs)

    def __call__(self, tokens_BT: Array, place: Placement = ANYWHERE) -> Array:
        """Return the float32 logits (B, T, V) of the token after each position."""
        config = self.config
        positions_T = jnp.arange(tokens_BT.shape[1])
        sin_TC, cos_TC = rope_tables(positions_T, config.head_dim, config.rope_theta, config.rope_scaling)

        def step(x_BTD: Array, block: Block) -> tuple[Array, None]:
            return place.stream(block(x_BTD, sin_TC, cos_TC, place)), None

        if config.remat:
            # A scan separates the two passes, so the barrier against merging them is not needed.
            step = jax.checkpoint(step, prevent_cse=False)
        # After the look-up, so that gradients of repeated tokens add up in the parameter dtype.
        x_BTD = place.stream(place.embedded(self.embed(tokens_BT).astype(config.dtype)))
        x_BTD, _ = jax.lax.scan(step, x_BTD, self.layers)
        return place.stream(self._head(self.norm(x_BTD)).astype(jnp.float32))

    def _head(self, x_BTD: Array) -> Array:
        """The logits of the normalised stream, in the compute dtype."""
        if not self.config.tied_head:
            return self.lm_head(x_BTD)
        embedding_VD = self.embed.embedding[...].astype(self.config.dtype)
        return x_BTD.astype(self.config.dtype) @ embedding_VD.T
