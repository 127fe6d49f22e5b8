"""A LLaMA of a few thousand parameters, and how the tests run it."""

import functools

import jax
from flax import nnx

from models import Llama, LlamaConfig

SMALL = LlamaConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    num_layers=3,
    init_std=0.2,  # large enough for attention and gradients to matter at this size
)


@functools.partial(jax.jit, static_argnums=0)
def make(config, seed):
    return Llama(config, rngs=nnx.Rngs(jax.random.key(seed)))


@jax.jit
def forward(model, tokens):
    return model(tokens)


def flat_state(model):
    return {"/".join(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
