"""What several test files share: the methods under test, gradients, and bases from outside."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import subspaces

# name -> scale_by_<method>(rank, update_proj_gap, **options); every law runs over all of them.
METHODS = {
    "grassjump": grass_optax.scale_by_grassjump,
    "grasswalk": grass_optax.scale_by_grasswalk,
}
ALIASES = {"grassjump": grass_optax.grassjump, "grasswalk": grass_optax.grasswalk}

WIDE, TALL, SQUARE, STACK = (6, 16), (16, 6), (8, 8), (3, 6, 16)


def grads_like(params, t, seed=0):
    """Gradients of step t: independent Gaussians around a fixed mean, so that both moments mean something."""
    mean_key, noise_key = jax.random.split(jax.random.key(seed))
    leaves, treedef = jax.tree.flatten(params)
    keys = [jax.random.fold_in(k, i) for k in (mean_key, jax.random.fold_in(noise_key, t)) for i in range(len(leaves))]
    means, noises = keys[: len(leaves)], keys[len(leaves) :]
    return treedef.unflatten(
        [
            jax.random.normal(a, x.shape, x.dtype) + jax.random.normal(b, x.shape, x.dtype)
            for a, b, x in zip(means, noises, leaves, strict=True)
        ]
    )


def run(tx, params, steps, seed=0, state=None, start=0):
    """Update `steps` times under one jit: lists of updates and states."""
    state = tx.init(params) if state is None else state
    update = jax.jit(tx.update)
    updates, states = [], []
    for t in range(start, start + steps):
        u, state = update(grads_like(params, t, seed), state, params)
        updates.append(u)
        states.append(state)
    return updates, states


def basis_of(state):
    return optax.tree_utils.tree_get(state, "basis")


def injected(bases, gap):
    """A rule that takes its bases from a list, one for each refresh."""
    bases = jnp.stack(bases)
    return subspaces.stateless_rule(lambda refresh: bases[refresh.count // gap].astype(refresh.basis.dtype))


def stacked_dimensions(params):
    """The last two axes are the matrix, all others batch axes."""
    return jax.tree.map(lambda x: MuonDimensionNumbers(-2, -1) if x.ndim > 1 else None, params)
