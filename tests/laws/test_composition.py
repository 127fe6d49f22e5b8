"""Every method inside what Optax wraps around a transformation, and in whatever Optax does with
`init`.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from tests import tolerances, util
from tests.util import (
    METHODS,
    OF_CHEAP_KINDS,
    STACK,
    WIDE,
    assert_same,
    basis_of,
    every_method,
    grads_like,
    is_finite,
    of_each_kind,
    run,
    stacked_dimensions,
)

PARAMS = {"w": jnp.ones(STACK), "b": jnp.ones(3)}  # three matrices, which are badam's blocks
optimizer = functools.partial(util.optimizer, weight_dimension_numbers=stacked_dimensions)


@of_each_kind(OF_CHEAP_KINDS)
def test_composes_with_chain_and_jit_and_donation(name):
    # Gwt divides by roots of sums, some of them near zero: its updates are large.
    rate = 0.01 if name == "gwt" else 0.1
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimizer(name, gap=50, learning_rate=rate))
    params = jax.tree.map(jnp.zeros_like, PARAMS)
    target = grads_like(params, 0)

    def loss_of(p):
        return optax.tree.norm(optax.tree.sub(p, target))

    def step(params, state):
        updates, state = tx.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    start, state, step = loss_of(params), tx.init(params), jax.jit(step, donate_argnums=(0, 1))
    for _ in range(100):
        params, state = step(params, state)
    assert loss_of(params) < 0.85 * start


@functools.cache
def alone(name):
    """Updates of the method on its own."""
    return run(optimizer(name), PARAMS, 5)[0]


@of_each_kind(OF_CHEAP_KINDS)
def test_composes_with_masked_and_partition(name):
    """Under masks the split leaves see the same bases and get the same updates as alone."""
    labels = {"w": "ours", "b": "ours", "frozen": "zero", "hidden": "zero"}
    partition = optax.partition({"ours": optimizer(name), "zero": optax.set_to_zero()}, labels)
    tx = optax.masked(partition, {"w": True, "b": True, "frozen": True, "hidden": False})
    others = {"frozen": jnp.ones(STACK), "hidden": jnp.ones(STACK)}
    state, update = tx.init(PARAMS | others), jax.jit(tx.update)
    for t in range(5):
        updates, state = update(grads_like(PARAMS, t) | others, state, PARAMS | others)
        assert_same({k: updates[k] for k in PARAMS}, alone(name)[t])
        chex.assert_trees_all_equal((updates["frozen"], updates["hidden"]), (jnp.zeros(STACK), jnp.ones(STACK)))


@of_each_kind(OF_CHEAP_KINDS)
def test_composes_with_multi_steps(name):
    """Two half batches are one batch."""
    many = optax.MultiSteps(optimizer(name), every_k_schedule=2)
    state, update = many.init(PARAMS), jax.jit(many.update)
    for t in range(4):
        grads = grads_like(PARAMS, t)
        with jax.numpy_dtype_promotion("standard"):  # Optax's accumulation mixes types
            nothing, state = update(grads, state, PARAMS)
            updates, state = update(grads, state, PARAMS)
        assert not any(np.any(x) for x in jax.tree.leaves(nothing))
        assert_same(updates, alone(name)[t])


# Optax's suite runs all.
@of_each_kind(
    ("fira", "apollo", "frugal", "badam", "column_sgd"),
    ["grasswalk", "fira", "apollo", "ldadam", "frugal", "sumo", "badam", "column_sgd"],
)
def test_every_number_but_those_that_shape_the_computation_may_be_injected(name):
    method = METHODS[name]
    arguments = set(inspect.signature(method.alias).parameters)
    injected = optax.inject_hyperparams(method.alias, tuple(method.static & arguments))
    options = method.options(2, 2) | {"weight_dimension_numbers": stacked_dimensions}
    tx = injected(learning_rate=optax.constant_schedule(0.1), **options)
    assert_same(run(tx, PARAMS, 5)[0], alone(name), tolerances.TRACED_B2)
    expected = {"b1", "b2", "eps", "weight_decay", "learning_rate"} | ({"scale"} & arguments)
    assert set(tx.init(PARAMS).hyperparams) >= expected


def test_hyperparameters_of_bf16_parameters_stay_float32_where_that_is_said():
    """By default Optax keeps them in the type of the parameters, where b2 = 0.999 is 1."""
    params = {"w": jnp.ones(WIDE, jnp.bfloat16)}
    inject = optax.inject_hyperparams(
        grass_optax.grassjump, static_args=("rank", "update_proj_gap", "key"), hyperparam_dtype=jnp.float32
    )
    updates = []
    for tx in (inject(0.1, rank=3, update_proj_gap=2), grass_optax.grassjump(0.1, rank=3, update_proj_gap=2)):
        state, update = tx.init(params), jax.jit(tx.update)
        with jax.numpy_dtype_promotion("standard"):  # Optax's decay multiplies one by the other
            for t in range(4):
                u, state = update(grads_like(params, t), state, params)
        updates.append(np.asarray(u["w"], np.float32))
    np.testing.assert_allclose(*updates, rtol=2e-2)


@of_each_kind(OF_CHEAP_KINDS)
def test_survives_non_finite_gradients(name):
    """With apply_if_finite a NaN step, the first or a refresh included, leaves no trace but its
    place in time.
    """
    tx = optax.apply_if_finite(optimizer(name, gap=4), max_consecutive_errors=3)
    update = jax.jit(tx.update)
    for bad_step in (0, 3, 4):
        state = tx.init(PARAMS)
        for t in range(8):
            grads = grads_like(PARAMS, t)
            if t == bad_step:
                grads["w"] = grads["w"].at[0, 1, 2].set(jnp.nan)
            updates, state = update(grads, state, PARAMS)
            assert is_finite((updates, state))
            assert (jnp.linalg.norm(updates["w"]) > 0) == (t != bad_step)


@every_method
def test_init_takes_whatever_optax_gives_it(name):
    tx = optimizer(name)
    params = PARAMS | {"stack": jnp.ones(STACK)}
    abstract = jax.eval_shape(lambda: params)
    for init in (jax.eval_shape(tx.init, params), jax.eval_shape(tx.init, abstract)):
        chex.assert_trees_all_equal_shapes_and_dtypes(init, jax.eval_shape(lambda: tx.init(params)))
    assert jax.tree.leaves(basis_of(tx.init({}))) == []
    updates, _ = tx.update({}, tx.init({}), {})
    assert updates == {}
    hidden = {"w": jnp.ones(WIDE), "hidden": optax.MaskedNode()}
    updates, _ = jax.eval_shape(tx.update, hidden, tx.init(hidden), hidden)
    assert updates["hidden"] == optax.MaskedNode()
    state = tx.init(params)
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)
    with_dims = optimizer(name, weight_dimension_numbers={"w": MuonDimensionNumbers()})
    state = with_dims.init({"w": jnp.ones(WIDE)})
    chex.assert_trees_all_equal(optax.tree.map_params(with_dims, lambda x: x, state), state)


def test_an_unknown_option_is_an_error_that_names_it():
    with pytest.raises(TypeError, match="weight_decay"):
        METHODS["galore"].scale_by(2, weight_decay=0.1)
    for inside in ("projection", "lift", "initial"):  # the last two are words of `assemble`
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{inside}'"):
            METHODS["galore"].alias(0.1, **{inside: None})


def test_an_inner_that_a_transport_does_not_know_is_an_error_at_init():
    with pytest.raises(TypeError, match=r"cannot rotate the inner state ScaleByRmsState.*Give another `inner`"):
        optimizer("grassjump", inner=optax.scale_by_rms()).init(PARAMS)
    with pytest.raises(TypeError, match=r"cannot reset the inner state ScaleByRssState"):
        optimizer("frugal", inner=optax.scale_by_rss()).init(PARAMS)
    reads = optimizer("coap", inner=optax.scale_by_rms())
    state = reads.init(PARAMS)
    with pytest.raises(TypeError, match=r"no first moment that is known.*give such an `inner`"):
        jax.eval_shape(reads.update, PARAMS, state)


@pytest.mark.parametrize("name", ["ldadam", "coap"])
def test_a_first_moment_is_found_in_chains_of_chains(name):
    adam = optax.scale_by_adam(0.908, 0.99)  # ldadam's own betas, which its transport needs
    inner = optax.chain(optax.chain(optax.clip(1.0), optax.identity()), optax.chain(adam))
    tx = optimizer(name, inner=inner)
    updates, _ = jax.eval_shape(tx.update, PARAMS, tx.init(PARAMS), PARAMS)
    assert updates["w"].shape == STACK


@of_each_kind(("galore",), ["grassjump", "galore"])
def test_updates_are_differentiable_over_a_refresh_backwards_and_forwards(name):
    """The derivative of what four updates lead to, over a refresh, backwards as forwards and by
    differences.
    """

    # Singular vectors that change places between two scales would make the loss jump.
    start = {"w": jnp.ones(WIDE), "b": jnp.ones(3)}

    def loss(scale):
        tx = optimizer(name, scale=scale)
        params, state = start, tx.init(start)
        for t in range(4):
            grads = jax.tree.map(lambda p, g: 0.1 * p + g, params, grads_like(start, t))
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return optax.tree.norm(params, squared=True)

    backwards = jax.jit(jax.grad(loss))(0.5)
    forwards = jax.jit(lambda x: jax.jvp(loss, (x,), (1.0,))[1])(0.5)
    np.testing.assert_allclose(backwards, forwards, rtol=1e-4)
    value = jax.jit(loss)
    np.testing.assert_allclose(backwards, (value(0.51) - value(0.49)) / 0.02, rtol=2e-2)
