"""What several test files share: the methods under test, gradients, and bases from outside."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import subspaces
from tests import tolerances


class Method(NamedTuple):
    """A method, and which of the laws' special cases it is."""

    alias: Callable[..., Any]
    scale_by: Callable[..., Any]
    static: tuple[str, ...] = ()  # its integers that inject_hyperparams must leave alone
    gap: str | None = "update_proj_gap"  # its interval
    splits: bool = True  # over split_by_subspace: it has bases
    has_rank: bool = True
    draws: bool = True  # its bases depend on the key
    recovers: bool = False  # moves along the gradient outside the subspace as well
    has_svd: bool = False  # factorises, and may branch inside its refresh

    def options(self, rank, gap):
        """Rank and interval, as far as the method has them, and what else it needs."""
        given = {"rank": rank} if self.has_rank else {}
        given |= {self.gap: gap} if self.gap else {}
        return given | ({"random_start": 8} if self.alias is grass_optax.golore else {})


def method(name, *static, **traits):
    return Method(getattr(grass_optax, name), getattr(grass_optax, f"scale_by_{name}"), static, **traits)


METHODS = {
    "grassjump": method("grassjump", recovers=True),
    "grasswalk": method("grasswalk", "walk_rank", recovers=True),
    "subtrack": method("subtrack", "tracking_rank", recovers=True),
    "subtrack_grad": method("subtrack_grad", "tracking_rank"),
    "galore": method("galore", draws=False, has_svd=True),
    "golore": method("golore", has_svd=True),
    "fira": method("fira", draws=False, recovers=True, has_svd=True),
    "apollo": method("apollo", recovers=True),
    "apollo_mini": method("apollo_mini", recovers=True, has_rank=False),
    "ldadam": method("ldadam"),
    "frugal": method("frugal"),
    "online_subspace_descent": method("online_subspace_descent"),
    "coap": method("coap", "recompute_gap", has_svd=True),
    "sumo": method("sumo"),
    "badam": method("badam", "switch_every", gap="switch_every", splits=False, has_rank=False, draws=False),
    "column_sgd": method("column_sgd", gap=None, splits=False, has_rank=False, draws=False),
}
SPLIT = [name for name, method in METHODS.items() if method.splits]
# By module, so that all tests of a method in a file follow each other and share what is compiled
# for it.
every_method = pytest.mark.parametrize("name", METHODS, scope="module")
every_split_method = pytest.mark.parametrize("name", SPLIT, scope="module")

WIDE, TALL, SQUARE, STACK = (6, 16), (16, 6), (8, 8), (3, 6, 16)


def stacked_dimensions(params):
    """The last two axes are the matrix, all others batch axes."""
    return jax.tree.map(lambda x: MuonDimensionNumbers(-2, -1) if x.ndim > 1 else None, params)


def make(name, rank=3, gap=4, **options):
    """The direction of a method, stacks included."""
    options = METHODS[name].options(rank, gap) | {"weight_dimension_numbers": stacked_dimensions} | options
    return METHODS[name].scale_by(**options)


def optimizer(name, rank=2, gap=2, learning_rate=0.1, **options):
    """A method as an optimizer."""
    return METHODS[name].alias(learning_rate, **(METHODS[name].options(rank, gap) | options))


# By its name, "head" is the one leaf for which column_sgd has a momentum; to the others it is a
# square matrix. For badam the stack is three blocks.
LEAVES = {"wide": jnp.ones(WIDE), "head": jnp.ones(SQUARE), "stack": jnp.ones(STACK), "bias": jnp.ones(16)}


@functools.cache
def compiled_method(name):
    """`make(name)` and its update, compiled for `LEAVES`: one for all tests that need no other
    options.
    """
    tx = make(name)
    return tx, jax.jit(tx.update).lower(LEAVES, jax.eval_shape(tx.init, LEAVES)).compile()


def grads_like(params, t, seed=0):
    """Gradients of step t: independent Gaussians around a fixed mean, so that both moments mean
    something.
    """
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


def is_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def assert_same(actual, expected, tolerance=tolerances.SAME32):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.max(jnp.abs(b))), 1e-30))


def injected(bases, gap):
    """A rule that takes its bases from a list, one for each refresh."""
    bases = jnp.stack(bases)
    return subspaces.stateless_rule(lambda refresh: bases[refresh.count // gap].astype(refresh.basis.dtype))
