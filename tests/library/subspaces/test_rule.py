"""What every rule shares: the guards against bad gradients, and two rules as one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import bases, split_by_subspace, subspaces, transport
from tests.util import WIDE, basis_of, run

OLD = jnp.eye(4, 2)


def refresh(grad, **fields):
    of_a_matrix = subspaces.Refresh(jax.random.key(0), jnp.int32(3), grad, OLD, None, optax.EmptyState())
    return of_a_matrix._replace(**fields)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_basis_is_kept_unless_it_and_the_gradient_are_finite(bad):
    fine, broken, new = jnp.ones((4, 6)), jnp.ones((4, 6)).at[1, 2].set(bad), 2 * OLD
    np.testing.assert_array_equal(subspaces.kept_unless_finite(refresh(fine), new), new)
    np.testing.assert_array_equal(subspaces.kept_unless_finite(refresh(broken), new), OLD)
    np.testing.assert_array_equal(subspaces.kept_unless_finite(refresh(fine), new.at[0, 0].set(bad)), OLD)
    np.testing.assert_array_equal(subspaces.kept_unless_finite(refresh(broken, first=True), new), new)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_is_used_if_it_is_finite_and_replaced_by_noise_of_the_key_if_not(bad):
    fine, broken = jnp.full((4, 6), 3.0), jnp.ones((4, 6)).at[1, 2].set(bad)
    np.testing.assert_array_equal(subspaces.finite_or_noise(refresh(fine)), fine)
    noise = subspaces.finite_or_noise(refresh(broken))
    assert jnp.all(jnp.isfinite(noise))
    np.testing.assert_array_equal(noise, subspaces.finite_or_noise(refresh(2 * broken)))
    assert not np.array_equal(noise, subspaces.finite_or_noise(refresh(broken, key=jax.random.key(1))))


def counting(value):
    """A rule whose bases are this value, and whose state counts its refreshes."""

    def update(refresh):
        return jnp.full_like(refresh.basis, value), refresh.rule_state + 1

    return subspaces.SubspaceRule(init=lambda shape, dtype: jnp.int32(0), update=update, orthonormal=False)


def made_by(rule, count, **options):
    """The states of a split with this rule."""
    tx = grass_optax.split_by_subspace(
        rule, optax.scale_by_adam(), grass_optax.transport.keep(), None, rank=2, **options
    )
    return run(tx, jnp.ones(WIDE), count)[1]


def test_a_switch_uses_one_rule_before_its_start_and_the_other_from_then_on():
    """Each has a state of its own, which rests while the other is used."""
    states = made_by(subspaces.switch(counting(1.0), counting(2.0), start=4), 7, update_proj_gap=2)
    assert [float(basis_of(s)[0, 0]) for s in states] == [1, 1, 1, 1, 2, 2, 2]
    assert [tuple(map(int, s.rule_state)) for s in states][::2] == [(1, 0), (2, 0), (2, 1), (2, 2)]


def test_rules_that_are_interleaved_take_turns():
    states = made_by(subspaces.interleave(counting(1.0), counting(2.0), every=3), 10, update_proj_gap=1)
    assert [float(basis_of(s)[0, 0]) for s in states] == [1, 1, 2] * 3 + [1]
    assert [int(s.rule_state[0]) for s in states] == [1, 2, 0] * 3 + [1]
    assert tuple(map(int, states[-1].rule_state[1])) == (7, 3)
    # A first basis of another rule is no refresh.
    fives = subspaces.stateless_rule(lambda refresh: jnp.full_like(refresh.basis, 5.0), orthonormal=False)
    rule = subspaces.interleave(counting(1.0), counting(2.0), every=2)
    first = made_by(rule, 6, update_proj_gap=1, initial=fives)
    assert [float(basis_of(s)[0, 0]) for s in first] == [5, 1, 2, 1, 2, 1]
    with pytest.raises(ValueError, match="every"):
        subspaces.interleave(counting(1.0), counting(2.0), every=0)


@pytest.mark.parametrize(
    ("first", "then", "orthonormal", "moves"),
    [
        (subspaces.svd(), subspaces.random_jump(), True, False),
        (subspaces.svd(), subspaces.random_projection(), False, False),
        (subspaces.online_descent(0.1), subspaces.svd(), False, False),
        (subspaces.svd(), subspaces.tracking(), True, True),
        (subspaces.power_iteration(b1=0.9), subspaces.svd(), True, True),
    ],
)
def test_two_rules_promise_what_both_promise(first, then, orthonormal, moves):
    for rule in (subspaces.switch(first, then, start=3), subspaces.interleave(first, then, every=3)):
        assert (rule.orthonormal, rule.moves, rule.keyed) == (orthonormal, moves, False)


def test_a_rule_that_does_not_return_its_form_is_an_error():
    rule = subspaces.stateless_rule(lambda refresh: bases.Columns.of(jnp.arange(4), 8))
    tx = split_by_subspace(rule, optax.identity(), transport.keep(), None, rank=4, update_proj_gap=2)
    with pytest.raises(ValueError, match=r"returned Columns of \(4,\) and \(8,\), but .* array of \(8, 4\)"):
        tx.update(jnp.ones((8, 12)), tx.init(jnp.ones((8, 12))))


def test_rules_of_different_forms_are_an_error():
    """As the two rules of one, and as `initial` and `rule` of a split."""
    blocks, params = subspaces.random_jump("blocks", 2), jnp.ones((8, 12))
    axes = (optax.scale_by_adam(), transport.rotate(0.9, 0.999), None)
    options = dict(rank=4, update_proj_gap=2)
    for two in (subspaces.switch, subspaces.interleave):
        tx = split_by_subspace(two(subspaces.svd(), blocks, 3), *axes, **options)
        with pytest.raises(
            ValueError, match=f"the rules of {two.__name__} .* different forms, .*Blocks.*Give two rules"
        ):
            tx.init(params)
    other_first = split_by_subspace(blocks, *axes, initial=subspaces.range_finder(), **options)
    with pytest.raises(
        ValueError, match=r"first basis makes a basis that is array of \(8, 4\), and `rule` one that is Blocks of"
    ):
        other_first.init(params)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (subspaces.tracking(tracking_rank=3), "tracking_rank"),
        (subspaces.random_walk(walk_rank=3), "walk_rank"),
    ],
)
def test_no_more_directions_turn_than_lie_outside(rule, name):
    rule.init((6, 3), jnp.float32)
    with pytest.raises(ValueError, match=rf"{name} is 3, but a subspace of dimension 4 in 6 .* = 2"):
        rule.init((6, 4), jnp.float32)
