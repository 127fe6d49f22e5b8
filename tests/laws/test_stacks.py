"""A stack is its matrices: what a stack gets is what its matrices get one by one.

Each matrix has the path of the stack and its index in it, so that both draw the same numbers.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

from tests import tolerances
from tests.util import METHODS, assert_same, grads_like, long_but, make, of_each_kind

LAYERS, EXPERTS, M, N = 3, 2, 6, 16
RANK, GAP, STEPS = 3, 2, 7  # refreshes at t = 3, 5, 7
NARROW = {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}


def stacks():
    return {"layers": {"kernel": jnp.ones((LAYERS, M, N)), "experts": jnp.ones((LAYERS, EXPERTS, N, M))}}


def before(stacks):
    """layers/i/kernel and layers/i/j/experts."""
    kernel, experts = stacks["layers"]["kernel"], stacks["layers"]["experts"]
    return {
        "layers": {
            str(i): {"kernel": kernel[i]} | {str(j): {"experts": experts[i, j]} for j in range(EXPERTS)}
            for i in range(LAYERS)
        }
    }


def behind(stacks):
    """layers/kernel/i and layers/experts/i/j."""
    kernel, experts = stacks["layers"]["kernel"], stacks["layers"]["experts"]
    return {
        "layers": {
            "kernel": {str(i): kernel[i] for i in range(LAYERS)},
            "experts": {str(i): {str(j): experts[i, j] for j in range(EXPERTS)} for i in range(LAYERS)},
        }
    }


def listed(stacks):
    """A list of layers, each with a stack of its own."""
    kernel, experts = stacks["layers"]["kernel"], stacks["layers"]["experts"]
    return {"layers": [{"kernel": kernel[i], "experts": experts[i]} for i in range(LAYERS)]}


def updates_of(tx, view=lambda tree: tree):
    """Updates of the same gradients, drawn as stacks."""
    params = stacks()
    state, update, updates = tx.init(view(params)), jax.jit(tx.update), []
    for t in range(STEPS):
        u, state = update(view(grads_like(params, t)), state, view(params))
        updates.append(u)
    return updates


def method(name, **options):
    """With GoLore's draws within the run."""
    return make(name, RANK, GAP, **(dict.fromkeys(METHODS[name].needs, 4) | options))


@functools.cache
def updates_of_stacks(name):
    with jax.enable_x64(True):
        return updates_of(method(name))


def blocks_of(name, view):
    """Along an axis badam finds its blocks itself; as subtrees they must be named."""
    if name != "badam":
        return {}
    assert view is not behind, "these blocks are no subtrees"
    return {"blocks": [f"layers/{i}" for i in range(LAYERS)], "weight_dimension_numbers": None}


def assert_same_run(apart, together, view, tolerance=tolerances.ORACLE64):
    for one_by_one, stacked in zip(apart, together, strict=True):
        assert_same(one_by_one, view(stacked), tolerance)


@of_each_kind(("grassjump", "galore", "ldadam", "badam"))
def test_a_stack_is_its_matrices(name):
    """In float64: singular vectors turn by a rounding over the distance of their values."""
    with jax.enable_x64(True):
        apart = updates_of(method(name, **blocks_of(name, before)), before)
        assert_same_run(apart, updates_of_stacks(name), before)


# Bases stored, drawn, moved at every step.
@pytest.mark.parametrize(
    ("name", "view"),
    long_but(
        [("grassjump", behind), ("apollo", listed)],
        itertools.product(("grassjump", "apollo", "ldadam"), (behind, listed)),
    ),
)
def test_a_stack_is_its_matrices_wherever_the_index_is(name, view):
    with jax.enable_x64(True):
        assert_same_run(updates_of(method(name), view), updates_of_stacks(name), view)


# badam is not under this law: its inner optimizer names a leaf by its path below the block, which
# differs between the two forms.
@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in METHODS if name != "badam"])
def test_a_stack_is_its_matrices_with_moments_in_8_bits(name):
    """Rounding draws for each matrix, too."""
    apart = updates_of(method(name, **NARROW), before)
    assert_same_run(apart, updates_of(method(name, **NARROW)), before, tolerances.SAME32)
