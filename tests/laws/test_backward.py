"""The step inside the backward pass is the plain step, for all that treats leaves apart."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from grass_optax import Clip
from tests.library.backward.models import dimensions, fused, parameters, plain_step, train
from tests.util import METHODS, long_but, optimizer

OTHERS = {
    "adam": optax.adam,
    "lion": lambda rate: optax.lion(rate / 10),
    "momentum": lambda rate: optax.sgd(10 * rate, momentum=0.9),
    "adafactor": lambda rate: optax.adafactor(  # without norms of leaves, which are those of stacks in the plain step
        rate, min_dim_size_to_factor=2, clipping_threshold=None, multiply_by_parameter_scale=False
    ),
    "muon": lambda rate: optax.contrib.muon(rate, muon_weight_dimension_numbers=dimensions),
}
NAMES = [name for name in METHODS if name != "badam"] + list(OTHERS)
STEPS = 50


def made(name, learning_rate=0.01):
    if name in OTHERS:
        return OTHERS[name](learning_rate)
    options = METHODS[name].options(2, 8) | dict.fromkeys(METHODS[name].needs, 20)
    return optimizer(name, learning_rate=learning_rate, weight_dimension_numbers=dimensions, **options)


CLIPS = [None, Clip(max_norm=0.2)]


def clipped(tx, clip):
    """The chain of a plain step."""
    return optax.chain(optax.clip_by_global_norm(clip.max_norm), tx) if clip else optax.chain(tx)


@pytest.mark.parametrize(
    ("name", "clip"),
    # The types of adafactor are mixed there.
    long_but([("apollo", CLIPS[1])], [(name, clip) for name in NAMES for clip in CLIPS if name != "adafactor"]),
)
def test_in_float64_over_refreshes(name, clip):
    with jax.enable_x64(True):
        tx, params = made(name), parameters(jnp.float64)
        plain = clipped(tx, clip)
        expected, state, losses = train(plain_step(plain), params, plain.init(params), STEPS)
        found = train(fused(tx, clip=clip), params, tx.init(params), STEPS)
        chex.assert_trees_all_close(found, (expected, state[-1], losses), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "clip"), long_but([("grassjump", CLIPS[1])], [(name, clip) for name in NAMES for clip in CLIPS])
)
def test_losses_in_float32(name, clip):
    """At a rate at which 50 steps do not magnify a rounding a hundred times."""
    tx, params = made(name, learning_rate=0.001), parameters()
    plain = clipped(tx, clip)
    _, _, expected = train(plain_step(plain), params, plain.init(params), STEPS)
    _, _, losses = train(fused(tx, clip=clip), params, tx.init(params), STEPS)
    chex.assert_trees_all_close(losses, expected, atol=1e-5, rtol=0)
