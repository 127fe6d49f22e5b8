"""A stack is its matrices: what a stack gets is what its matrices get one by one.

Each matrix has the path of the stack and its index in it, so that both draw the same numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.util import METHODS, assert_same, every_method, grads_like, make

LAYERS, EXPERTS, M, N = 3, 2, 6, 16
RANK, GAP, STEPS = 3, 2, 7  # refreshes at t = 3, 5, 7
NARROW = {"mu_dtype": "float8_e4m3fn", "nu_dtype": "float8_e4m3fn"}
STACKS = {"layers": {"kernel": jnp.ones((LAYERS, M, N)), "experts": jnp.ones((LAYERS, EXPERTS, N, M))}}


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


VIEWS = {"index before": before, "index behind": behind, "list of layers": listed}


def updates_of(tx, view):
    """Updates of the same gradients, drawn as stacks."""
    state, update, updates = tx.init(view(STACKS)), jax.jit(tx.update), []
    for t in range(STEPS):
        u, state = update(view(grads_like(STACKS, t)), state, view(STACKS))
        updates.append(u)
    return updates


def options_of(name):
    """GoLore's draws begin within the run."""
    return dict.fromkeys(METHODS[name].needs, 4)


def assert_a_stack_is_its_matrices(view, stacked, unstacked):
    together, apart = updates_of(stacked, lambda tree: tree), updates_of(unstacked, view)
    for t in range(STEPS):
        assert_same(apart[t], view(together[t]))


def paths_of_layers(name, view):
    """Along an axis badam finds its blocks itself; as subtrees they must be named."""
    if name != "badam":
        return {}
    if view is behind:
        pytest.skip("the blocks are no subtrees")
    return {"blocks": [f"layers/{i}" for i in range(LAYERS)], "weight_dimension_numbers": None}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@every_method
def test_a_stack_is_its_matrices(name, view):
    options = options_of(name)
    unstacked = make(name, RANK, GAP, **options, **paths_of_layers(name, view))
    assert_a_stack_is_its_matrices(view, make(name, RANK, GAP, **options), unstacked)


@every_method
def test_a_stack_is_its_matrices_with_moments_in_8_bits(name):
    options = options_of(name) | NARROW
    unstacked = make(name, RANK, GAP, **options, **paths_of_layers(name, before))
    assert_a_stack_is_its_matrices(before, make(name, RANK, GAP, **options), unstacked)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.draws_bases])
def test_no_two_matrices_of_a_stack_draw_alike(name):
    """Neither do those of a stack of stacks."""
    params = {"stack": jnp.ones((2, 12, 16)), "deep": jnp.ones((2, 2, 12, 16))}
    same = jax.tree.map(lambda x: jnp.broadcast_to(grads_like(jnp.ones(x.shape[-2:]), 0), x.shape), params)
    tx = make(name, 5, 1, **dict.fromkeys(METHODS[name].needs, 0))
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(2):  # some draw from their second basis on
        updates, state = update(same, state, params)
    matrices = [*np.asarray(updates["stack"]), *np.asarray(updates["deep"]).reshape(4, 12, 16)]
    assert all(not np.array_equal(matrices[i], matrices[j]) for i in range(6) for j in range(i))
