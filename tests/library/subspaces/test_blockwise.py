"""A rule for each block of rows: what it reads, and what it makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import grassmann, split_by_subspace, subspaces, transport
from grass_optax.residual import recovery
from tests import tolerances
from tests.util import basis_of, run

M, RANK, N, BLOCKS = 12, 6, 16, 3
SHAPE = (M // BLOCKS, RANK // BLOCKS)
RULES = {
    "jump": subspaces.random_jump(),
    "walk": subspaces.random_walk(0.3),
    "svd": subspaces.svd(),
    "tracking": subspaces.tracking(),
    "power iteration": subspaces.power_iteration(b1=0.9),
    "online descent": subspaces.online_descent(0.01),
    "coap": subspaces.coap(svd_gap=4),
}


def part(x, i):
    """The rows of block i."""
    return x.reshape(BLOCKS, -1, *x.shape[1:])[i]


@pytest.mark.parametrize(("name", "count"), [*((name, 3) for name in RULES), ("coap", 4)])  # 4: coap's SVD
def test_each_block_gets_what_the_rule_makes_of_its_rows(name, count):
    rule, whole = RULES[name], subspaces.by_blocks(RULES[name], BLOCKS)
    keys = jax.random.split(jax.random.key(1), 3)
    grad, moments = (jax.random.normal(key, (rows, N)) for key, rows in zip(keys[:2], (M, RANK), strict=True))
    old = whole.form((M, RANK), jnp.float32)._replace(
        blocks=grassmann.random_basis(keys[2], (BLOCKS, *SHAPE), jnp.float32)
    )
    adam = optax.ScaleByAdamState(jnp.int32(count), moments, jnp.square(moments))
    state = whole.init((M, RANK), jnp.float32)
    refresh = subspaces.Refresh(jax.random.key(0), jnp.int32(count), grad, old, adam, state)
    basis, states = whole.update(refresh)
    for i in range(BLOCKS):
        own = refresh._replace(
            key=jax.random.fold_in(refresh.key, i), grad=part(grad, i), basis=old.blocks[i],
            inner_state=adam._replace(mu=part(adam.mu, i), nu=part(adam.nu, i)),
            rule_state=rule.init(SHAPE, jnp.float32),
        )  # fmt: skip
        expected, expected_state = rule.update(own)
        np.testing.assert_allclose(basis.blocks[i], expected, atol=tolerances.ORTHONORMAL32)
        for x, y in zip(jax.tree.leaves(states), jax.tree.leaves(expected_state), strict=True):
            np.testing.assert_allclose(x[i], y, atol=tolerances.ORTHONORMAL32)


def test_a_walk_of_blocks_turns_each_of_them():
    walk, first = (subspaces.by_blocks(rule, 2) for rule in (subspaces.random_walk(0.5), subspaces.range_finder()))
    axes = (walk, optax.scale_by_adam(), transport.rotate(0.9, 0.999), recovery())
    stacks = optax.contrib.MuonDimensionNumbers(1, 2)
    tx = split_by_subspace(*axes, rank=4, update_proj_gap=1, initial=first, weight_dimension_numbers=stacks)
    _, states = run(tx, jnp.zeros((3, 12, 20)), 2)
    before, after = (basis_of(state).blocks for state in states)
    angles = jnp.arccos(grassmann.principal_cosines(before, after))
    np.testing.assert_allclose(angles, jnp.broadcast_to(jnp.array([0.0, 0.5]), (3, 2, 2)), atol=2e-3)


def test_a_rule_in_blocks_promises_what_the_rule_promises():
    for rule in (subspaces.random_jump("gaussian"), subspaces.random_walk(), subspaces.online_descent(0.1)):
        blocks = subspaces.by_blocks(rule, 2)
        assert (blocks.orthonormal, blocks.keyed, blocks.moves) == (rule.orthonormal, rule.keyed, rule.moves)


def test_more_directions_than_a_block_has_cannot_turn():
    walk = subspaces.by_blocks(subspaces.random_walk(walk_rank=2), 4)
    with pytest.raises(ValueError, match="walk_rank is 2, but a subspace of dimension 1 in 3"):
        walk.init((12, 4), jnp.float32)


def test_only_rules_of_arrays_can_be_cut_into_blocks():
    rule = subspaces.by_blocks(subspaces.columns(), 2)
    with pytest.raises(ValueError, match="the bases of this rule are Columns, but by_blocks needs arrays"):
        rule.form((12, 4), jnp.float32)
