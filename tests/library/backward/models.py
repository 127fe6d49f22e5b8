"""A small scanned model, for every form of its step."""

import functools

import jax
import jax.numpy as jnp
import optax

import grass_optax
from tests.util import stacked_dimensions

LAYERS, VOCABULARY, WIDTH, INNER = 4, 12, 8, 12

loss = grass_optax.ScannedLoss(
    embed=lambda w, batch: (w["embed"][batch["tokens"]] + w["bias"][None, None], batch["shift"]),
    block=lambda layer, x, shift: x + jnp.tanh((x * layer["norm"][None, None] + shift) @ layer["up"]) @ layer["down"],
    head=lambda w, x, batch: optax.softmax_cross_entropy_with_integer_labels(x @ w["head"], batch["targets"]).mean(),
)


def parameters(dtype=jnp.float32):
    keys = iter(jax.random.split(jax.random.key(0), 4))

    def normal(*shape):
        return 0.3 * jax.random.normal(next(keys), shape, dtype)

    layers = {
        "norm": jnp.ones((LAYERS, WIDTH), dtype),
        "up": normal(LAYERS, WIDTH, INNER),
        "down": normal(LAYERS, INNER, WIDTH),
    }
    others = {"embed": normal(VOCABULARY, WIDTH), "bias": jnp.zeros(WIDTH, dtype), "head": normal(WIDTH, VOCABULARY)}
    return {**others, "layers": layers}


def batch(t, dtype=jnp.float32):
    tokens, targets, shift = jax.random.split(jax.random.fold_in(jax.random.key(1), t), 3)
    return {
        "tokens": jax.random.randint(tokens, (4, 3), 0, VOCABULARY),
        "targets": jax.random.randint(targets, (4, 3), 0, VOCABULARY),
        "shift": jax.random.normal(shift, (), dtype),
    }


def matrices(params):
    """Which parameters are matrices of layers."""
    return jax.tree.map(lambda x: x.ndim == 3, params)


def dimensions(params):
    """Only the kernels of the layers are matrices."""
    return jax.tree.map(lambda x: stacked_dimensions(x) if x.ndim == 3 else None, params)


def plain_step(tx):
    """The step with whole gradients."""

    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(grass_optax.from_int8(params), batch)
        updates, state = tx.update(grads, state, params)
        report = grass_optax.BackwardReport(value, optax.tree.norm(grads))
        return optax.apply_updates(params, updates), state, report

    return step


def train(step, params, state, steps, start=0):
    """Parameters and state after some steps, and the losses."""
    step, losses = jax.jit(step, donate_argnums=(0, 1)), []
    dtype = params["bias"].dtype
    params, state = jax.tree.map(jnp.copy, (params, state))  # the caller's own are not donated
    for t in range(start, start + steps):
        params, state, report = step(params, state, batch(t, dtype))
        losses.append(float(report.loss))
    return params, state, losses


fused = functools.partial(grass_optax.update_in_backward, loss)
