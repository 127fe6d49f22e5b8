"""What several test files share: the methods under test, gradients, and bases from outside."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import grassmann, subspaces
from grass_optax.bases import as_basis
from tests import tolerances
from train.config.optimizers import OPTIMIZERS, Optimizer


class Method:
    """A method, and which of the laws' special cases it is: a row of the trainer's table."""

    def __init__(self, row: Optimizer):
        self.alias = getattr(grass_optax, row.name)
        self.scale_by = getattr(grass_optax, f"scale_by_{row.name}")
        self.arguments, self.needs = row.arguments, row.run_fractions
        self.splits, self.recovers = row.splits, row.recovers
        self.draws_bases = row.splits and row.draws
        self.parameters = set(inspect.signature(self.scale_by).parameters)
        # Whether its state has bases, for some of its options
        self.has_bases = row.splits and (row.stores_bases or "store_basis" in self.parameters)
        # Whether its state shows its subspaces, for some of its options
        self.shows_subspaces = row.shows_subspaces or self.has_bases
        self.has_rank, self.has_svd = "rank" in row.takes, row.svd != "never"
        # What inject_hyperparams must leave alone
        self.static = {"rank", row.gap_argument, "key", "blocks", "weight_dimension_numbers", *row.static_integers}

    def options(self, rank, gap):
        """Rank and interval, if the method has them, and the counts of updates that it needs."""
        return self.arguments(rank=rank, update_proj_gap=gap) | dict.fromkeys(self.needs, 8)


METHODS = {row.name: Method(row) for row in OPTIMIZERS.values() if not row.is_baseline}
SPLIT = [name for name, method in METHODS.items() if method.splits]
# By module, so that all tests of a method in a file follow each other and share what is compiled
# for it.
every_method = pytest.mark.parametrize("name", METHODS, scope="module")
every_split_method = pytest.mark.parametrize("name", SPLIT, scope="module")
# A basis that is stored, that moves, that an SVD makes, that none keeps; moments moved at every
# step; no basis at all. The other methods put the same parts together.
OF_EACH_KIND = ("grassjump", "grasswalk", "galore", "apollo", "ldadam", "badam", "column_sgd")
# Those of them that compile fast.
OF_CHEAP_KINDS = ("grassjump", "galore", "apollo", "badam", "column_sgd")


def long_but(default, cases):
    """All cases, each an argument or a tuple of arguments, marked long but for the default ones."""
    cases = list(cases)
    assert all(case in cases for case in default)
    return [
        case
        if case in default
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long)
        for case in cases
    ]


def of_each_kind(kinds=OF_EACH_KIND, methods=METHODS):
    """One method of each kind by default, and all of them among the long tests."""
    return pytest.mark.parametrize(
        "name", long_but([name for name in kinds if name in methods], methods), scope="module"
    )


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


def ran(name, steps, start=0, state=None, change=lambda t, grads: grads):
    """Updates and states of the shared program, on gradients that `change` may alter."""
    tx, update = compiled_method(name)
    state, updates, states = tx.init(LEAVES) if state is None else state, [], []
    for t in range(start, start + steps):
        u, state = update(change(t, grads_like(LEAVES, t)), state)
        updates.append(u)
        states.append(state)
    return updates, states


def basis_of(state):
    return optax.tree_utils.tree_get(state, "basis")


@functools.cache
def old_basis(rule, shape):
    """A basis (m, r) in the form of a rule's: orthonormal, and if it is an array, random."""
    form = rule.form(shape, jnp.float32)
    return grassmann.random_basis(jax.random.key(0), shape, jnp.float32) if isinstance(form, jax.Array) else form


def matrix_of(basis):
    """The entries of a basis of any form."""
    return as_basis(basis).to_matrix()


def is_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def assert_same(actual, expected, tolerance=tolerances.SAME32):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.max(jnp.abs(b))), 1e-30))


def injected(bases, gap):
    """A rule that takes its bases from a list, one for each refresh."""
    bases = jnp.stack(bases)
    return subspaces.stateless_rule(lambda refresh: bases[refresh.count // gap].astype(refresh.basis.dtype))
