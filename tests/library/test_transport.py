"""Moments in a new basis: each transport on its own, and the betas of its moments."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import grassmann, transport
from tests.util import WIDE, run

KEY = jax.random.key(3)


def adam_state(count=7, shape=(4, 9)):
    mu = jax.random.normal(KEY, shape)
    return optax.ScaleByAdamState(
        jnp.int32(count), mu, 1.0 + jnp.square(jax.random.normal(KEY, shape)) + jnp.square(mu)
    )


def rotation(r=4):
    return grassmann.random_basis(jax.random.key(1), (r, r), jnp.float32)


@pytest.mark.parametrize("completion", ["none", "isotropic"])
def test_identity_rotates_nothing(completion):
    state = adam_state()
    after = transport.rotate(0.9, 0.99, completion)(state, jnp.eye(4))
    assert after.count == state.count
    np.testing.assert_allclose(after.mu, state.mu, rtol=1e-6)
    np.testing.assert_allclose(after.nu, state.nu, rtol=1e-5)


def test_rotation_goes_through_chains_and_leaves_other_states_alone():
    state = (adam_state(), optax.EmptyState(), optax.ScaleByScheduleState(jnp.int32(3)))
    after = transport.rotate(0.9, 0.99)(state, rotation())
    assert after[1:] == state[1:]
    np.testing.assert_allclose(after[0].mu, rotation() @ state[0].mu, atol=1e-6)


def test_rotation_of_an_unknown_state_is_an_error():
    state = optax.scale_by_rms().init(jnp.ones((4, 9)))
    with pytest.raises(TypeError, match=r"cannot rotate the inner state ScaleByRmsState.*transport.keep"):
        transport.rotate(0.9, 0.99)(state, rotation())


def test_full_rotation_keeps_a_multiple_of_identity():
    """A second moment that is the same in all directions is so in all bases; the mean turns as a
    vector.
    """
    mu = jnp.zeros((4, 9))
    state = optax.ScaleByAdamState(jnp.int32(5), mu, jnp.full((4, 9), 2.0))
    np.testing.assert_allclose(transport.rotate(0.9, 0.99)(state, rotation()).nu, 2.0, rtol=1e-5)


def test_isotropic_completion_restores_what_a_jump_leaves_behind():
    old, new = grassmann.random_basis(KEY, (2, 200, 50), jnp.float32)
    q = grassmann.rotation(new, old)
    state = optax.ScaleByAdamState(jnp.int32(50), jnp.zeros((50, 3)), jnp.ones((50, 3)))
    kept, completed = (transport.rotate(0.9, 0.99, c)(state, q).nu for c in ("none", "isotropic"))
    assert abs(float(kept.mean()) - 50 / 200) < 0.02  # r/m
    np.testing.assert_allclose(completed, 1, rtol=1e-5)


def test_the_simple_transports_keep_clear_or_turn():
    state, q = adam_state(), rotation()
    assert transport.keep()(state, q) is state
    assert all(not np.any(x) for x in jax.tree.leaves(transport.reset()(state, q)))
    after = transport.first_moment_only()(state, q)
    np.testing.assert_array_equal(after.nu, state.nu)
    np.testing.assert_allclose(after.mu, q @ state.mu, atol=1e-6)


def test_a_completion_that_is_none_is_an_error_that_names_the_choices(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse first
    with pytest.raises(ValueError, match="'full'; it must be one of 'none', 'isotropic'"):
        grass_optax.grassjump(0.1, completion="full")


def test_betas_that_are_not_those_of_the_transport_are_refused():
    def init(**options):
        return grass_optax.scale_by_grassjump(rank=3, update_proj_gap=2, **options).init(jnp.ones(WIDE))

    other = optax.chain(optax.scale_by_adam(b1=0.5, b2=0.9), optax.identity())
    with pytest.raises(ValueError, match=r"b1 = 0.5.*rotates its moments with b1 = 0.9"):
        init(inner=other)
    with pytest.raises(ValueError, match=r"b2 = 0.9.*with b2 = 0.999"):
        init(inner=other, b1=0.5)
    init(inner=other, b1=0.5, b2=0.9)
    init(inner=optax.scale_by_lion(b1=0.5, b2=0.9))  # has no second moment to correct
    jax.eval_shape(lambda: init(mu_dtype="bfloat16", nu_dtype="float8_e4m3fn"))
    with pytest.raises(ValueError, match="b1 = 0.5"):
        jax.jit(lambda: init(inner=other))()


def test_equal_betas_make_an_inner_adam_the_methods_own():
    betas = dict(b1=0.5, b2=0.9)
    own, given = (
        run(grass_optax.scale_by_grassjump(rank=3, update_proj_gap=2, **betas, **options), jnp.ones(WIDE), 5)[0]
        for options in ({}, {"inner": optax.scale_by_adam(**betas)})
    )
    np.testing.assert_array_equal(own[4], given[4])


def test_reset_of_muon_keeps_its_coefficients():
    dims = optax.contrib.MuonDimensionNumbers(0, 1)
    state = optax.contrib.scale_by_muon(weight_dimension_numbers=dims).init(jnp.ones((4, 9)))
    state = state._replace(count=jnp.int32(3), mu=jnp.ones((4, 9)))
    after = transport.reset()((state, optax.EmptyState()), rotation())[0]
    assert after.count == 0
    assert not np.any(after.mu)
    np.testing.assert_array_equal(after.ns_coeffs, state.ns_coeffs)
