"""Models of a few thousand parameters, and how the tests run them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from models import Encoder, EncoderConfig, Llama, LlamaConfig

SMALL = LlamaConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    num_layers=3,
    init_std=0.2,  # large enough for attention and gradients to matter at this size
)
BERT = EncoderConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_layers=3,
    max_positions=14,
    num_labels=3,
    init_std=0.2,
)
ROBERTA = dataclasses.replace(BERT, family="roberta", num_types=1, norm_eps=1e-5)
ENCODER_PAIR = {"bert": BERT, "roberta": ROBERTA}
MODELS = {LlamaConfig: Llama, EncoderConfig: Encoder}


@functools.partial(jax.jit, static_argnums=0)
def make(config, seed):
    return MODELS[type(config)](config, rngs=nnx.Rngs(jax.random.key(seed)))


@jax.jit
def forward(model, tokens):
    return model(tokens)


def flat_state(model):
    return {"/".join(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


def shaken(model):
    """The model with other norms and biases: ones and zeros would hide one in the wrong place."""
    for i, (path, leaf) in enumerate(sorted(flat_state(model).items())):
        if path.endswith(("scale", "bias")):
            noise = jax.random.normal(jax.random.key(i), leaf.shape, jnp.float32)
            leaf[...] += (0.3 * noise).astype(leaf.dtype)
    return model
