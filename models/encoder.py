"""BERT and RoBERTa in Flax NNX: one block, stacked along a leading layer axis and scanned over the
layers, with a head for classification or regression. There is no dropout: fine-tuning has none.

Kernels are (in, out); in `layers` every parameter has a leading axis L. Products and the residual
stream have the compute dtype; norms, the softmax and what is returned are float32. Shape suffixes:
see `models.blocks`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.blocks import ANYWHERE, Placement, attend, embedding, linear, rematerialized, stacked
from models.encoder_config import EncoderConfig


def _norm(config: EncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.norm_eps,
        dtype=jnp.float32,
        param_dtype=jnp.dtype(config.param_dtype),
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Attention of every token to all tokens of its text."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        self.config = config
        self.q = linear(config, width, width, rngs, bias=True)
        self.k = linear(config, width, width, rngs, bias=True)
        self.v = linear(config, width, width, rngs, bias=True)
        self.o = linear(config, width, width, rngs, bias=True)

    def __call__(self, x_BTD: Array, mask_BTS: Array, place: Placement = ANYWHERE) -> Array:
        """Mix positions: (B, T, D) -> (B, T, D)."""
        heads = (*x_BTD.shape[:2], self.config.num_heads, self.config.head_dim)
        q_BTNH, k_BSNH, v_BSNH = (project(x_BTD).reshape(heads) for project in (self.q, self.k, self.v))
        out_BTNH = attend(q_BTNH, k_BSNH, v_BSNH, kernel=self.config.attention, mask_BTS=mask_BTS)
        return self.o(place.heads(out_BTNH.reshape(x_BTD.shape)))


class MLP(nnx.Module):
    """down(gelu(up(x))), with the exact GELU (Hendrycks and Gimpel 2016)."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.up = linear(config, config.hidden_size, config.intermediate_size, rngs, bias=True)
        self.down = linear(config, config.intermediate_size, config.hidden_size, rngs, bias=True)

    def __call__(self, x_BTD: Array) -> Array:
        """Mix features: (B, T, D) -> (B, T, D)."""
        return self.down(jax.nn.gelu(self.up(x_BTD), approximate=False))


class Block(nnx.Module):
    """One layer: attention, then the MLP; each sum with the residual stream is normalised."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs=rngs)
        self.attention_norm = _norm(config, rngs)
        self.mlp = MLP(config, rngs=rngs)
        self.mlp_norm = _norm(config, rngs)

    def __call__(self, x_BTD: Array, mask_BTS: Array, place: Placement = ANYWHERE) -> Array:
        """Advance the residual stream: (B, T, D) -> (B, T, D)."""
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, mask_BTS, place)).astype(x_BTD.dtype)
        return self.mlp_norm(x_BTD + self.mlp(x_BTD)).astype(x_BTD.dtype)


class Head(nnx.Module):
    """out(tanh(dense(x))) of the first token, which stands for the text."""

    def __init__(self, config: EncoderConfig, labels: int, *, rngs: nnx.Rngs) -> None:
        self.dense = linear(config, config.hidden_size, config.hidden_size, rngs, bias=True)
        self.out = linear(config, config.hidden_size, labels, rngs, bias=True)

    def __call__(self, hidden_BTD: Array) -> Array:
        """Map hidden states (B, T, D) to float32 logits (B, num_labels)."""
        return self.out(jnp.tanh(self.dense(hidden_BTD[:, 0]))).astype(jnp.float32)


class Encoder(nnx.Module):
    """An encoder that maps tokens (B, T) to hidden states (B, T, D), or to logits of labels."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = embedding(config, config.vocab_size, config.hidden_size, rngs)
        self.positions = embedding(config, config.position_rows, config.hidden_size, rngs)
        self.types = embedding(config, config.num_types, config.hidden_size, rngs)
        self.embed_norm = _norm(config, rngs)
        self.layers = stacked(lambda rngs: Block(config, rngs=rngs), config.num_layers, rngs)
        if config.num_labels is not None:
            self.head = Head(config, config.num_labels, rngs=rngs)

    def __call__(
        self, tokens_BT: Array, mask_BT: Array, place: Placement = ANYWHERE, *, types_BT: Array | None = None
    ) -> Array:
        """Return the float32 hidden states (B, T, D) of the last layer.

        Args:
          tokens_BT: Tokens, with those that begin and end a text.
          mask_BT: True, or 1, for the tokens of a text, and false for padding.
          place: Sharding constraints.
          types_BT: The type of each token; by default 0.

        Raises:
          ValueError: If the texts are longer than the table of positions.
        """
        is_text_BT = mask_BT.astype(bool)
        mask_BTS = jnp.broadcast_to(is_text_BT[:, None, :], (*tokens_BT.shape, tokens_BT.shape[1]))

        def step(x_BTD: Array, block: Block) -> tuple[Array, None]:
            return place.stream(block(x_BTD, mask_BTS, place)), None

        step = rematerialized(step, self.config.remat)
        x_BTD, _ = jax.lax.scan(step, self._embedded(tokens_BT, is_text_BT, types_BT, place), self.layers)
        return x_BTD.astype(jnp.float32)

    def classify(
        self, tokens_BT: Array, mask_BT: Array, place: Placement = ANYWHERE, *, types_BT: Array | None = None
    ) -> Array:
        """Return the float32 logits (B, num_labels) of the texts; arguments are those of a call.

        Raises:
          ValueError: If the configuration has no `num_labels`.
        """
        if self.config.num_labels is None:
            raise ValueError("this encoder has no head: set num_labels in its configuration.")
        return self.head(self(tokens_BT, mask_BT, place, types_BT=types_BT))

    def _embedded(self, tokens_BT: Array, is_text_BT: Array, types_BT: Array | None, place: Placement) -> Array:
        config = self.config
        if tokens_BT.shape[1] > config.max_positions:
            raise ValueError(
                f"the texts have {tokens_BT.shape[1]} tokens, but max_positions is {config.max_positions}: cut them."
            )
        positions_BT = jnp.arange(tokens_BT.shape[1])[None] + config.first_position
        if config.family == "roberta":
            # Tokens of the text are counted, and padding has the row before the first.
            count_BT = jnp.cumsum(is_text_BT.astype(jnp.int32), axis=1)
            positions_BT = jnp.where(is_text_BT, count_BT, 0) + config.first_position - 1
        # Looked up, then cast, so that gradients of repeated tokens add up in the parameter dtype.
        x_BTD = place.embedded(self.embed(tokens_BT).astype(jnp.float32))
        x_BTD += self.positions(positions_BT).astype(jnp.float32)
        x_BTD += self.types(jnp.zeros((1, 1), jnp.int32) if types_BT is None else types_BT).astype(jnp.float32)
        return place.stream(self.embed_norm(x_BTD).astype(config.dtype))


def mean_pooled(hidden_BTD: Array, mask_BT: Array) -> Array:
    """Return the embedding (B, D) of each text, as Sentence Transformers has it: the mean of the
    hidden states of its tokens, of length 1.
    """
    weight_BT1 = mask_BT.astype(hidden_BTD.dtype)[..., None]
    # The bounds are theirs: they keep a text without tokens finite.
    mean_BD = jnp.sum(hidden_BTD * weight_BT1, axis=1) / jnp.maximum(jnp.sum(weight_BT1, axis=1), 1e-9)
    return mean_BD * jax.lax.rsqrt(jnp.maximum(jnp.sum(mean_BD**2, axis=-1, keepdims=True), 1e-24))
