"""What cannot work is refused by name, when built or initialised, before anything is computed."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import grass_optax
from grass_optax import residual, split_by_subspace, subspaces, transport
from tests.util import WIDE, run

PARAMS = jnp.ones(WIDE)
JUMP, ADAM, ROTATE = subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999)


def split(rule=JUMP, inner=ADAM, moves=ROTATE, outside=None, **options):
    return split_by_subspace(rule, inner, moves, outside, **({"rank": 3, "update_proj_gap": 2} | options))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"rule": subspaces.random_jump}, r"^rule is <function random_jump.*subspaces.random_jump\(\)"),
        ({"inner": optax.scale_by_adam}, r"^inner is <function scale_by_adam.*optax.scale_by_adam\(\)"),
        ({"outside": residual.recovery}, r"^residual is <function recovery.*residual.recovery\(\)"),
        ({"outside": "recovery"}, r"^residual is 'recovery'"),
        ({"moves": "keep"}, r"^transport is 'keep'.*transport.keep\(\)"),
        ({"initial": subspaces.range_finder}, r"^initial is <function range_finder"),
    ],
)
def test_what_is_not_an_axis_is_a_type_error_that_names_it(axes, message):
    with pytest.raises(TypeError, match=message):
        split(**axes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moves": transport.keep}, r"Call it: transport.keep\(\)"),
        ({"moves": transport.rotate}, r"Call it: transport.rotate\(b1, b2\)"),
        ({"basis_dtype": "int8"}, "basis_dtype is 'int8'"),
        ({"basis_dtype": "bf16"}, "basis_dtype is 'bf16'"),
        ({"lift": False}, "lift=False"),
        ({"update_proj_gap": 2**31}, r"update_proj_gap is 2147483648; give 1 or more, and less than 2\^31"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        split(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outside": residual.error_feedback(0.9), "store_basis": False}, "must be stored"),
        ({"outside": residual.per_column(optax.chain(residual.error_feedback(0.9)))}, "no error to feed"),
        ({"rule": subspaces.random_walk(), "initial": subspaces.online_descent(0.01)}, "without state"),
        ({"inner": optax.adam(1.0)}, r"a sign of its own.*optax.scale_by_adam\(\)"),
        ({"inner": optax.lion(1e-3)}, r"a sign of its own.*optax.scale_by_lion\(\)"),
        ({"inner": optax.chain(optax.clip(1.0), optax.sgd(0.1, 0.9))}, "a sign of its own"),
    ],
)
def test_a_state_that_cannot_work_is_refused_when_initialised(options, message):
    tx = split(**options)
    with pytest.raises(ValueError, match=message):
        tx.init(PARAMS)


@pytest.mark.parametrize(
    ("other", "params", "message"),
    [
        ({}, {"w": jnp.ones((16, 6))}, r"gradient of leaf 'w' is of shape \(16, 6\), but .* of shape \(6, 16\)"),
        ({"rank": 2}, {"w": PARAMS}, "the state is of rank 3, but this transformation is of rank 2"),
    ],
)
def test_a_state_of_another_split_is_refused_at_the_first_update(other, params, message):
    state = split().init({"w": PARAMS})
    with pytest.raises(ValueError, match=message):
        split(**other).update(params, state)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"store_basis": False}, {"rank": 2, "store_basis": False}, "of rank 3, but this transformation is of rank 2"),
        ({"store_basis": False}, {}, r"has no basis, but this transformation needs one that is array of \(6, 3\)"),
        ({}, {"rule": subspaces.columns()}, r"array of \(6, 3\), but .* Columns of \(3,\) and \(6,\)"),
        ({}, {"rule": subspaces.random_jump("blocks", 3)}, r"array of \(6, 3\), but .* Blocks of \(3, 2, 1\)"),
        (
            {"rule": subspaces.random_jump("blocks", 3)},
            {"rule": subspaces.random_jump("blocks", 1)},
            r"Blocks of \(3, 2, 1\), but .* Blocks of \(1, 6, 3\)",
        ),
        ({"rule": subspaces.columns()}, {"rule": subspaces.dct()}, "Columns of .*, but .* Cosine of"),
        (
            {"rule": subspaces.random_jump("blocks", 3), "store_basis": False},
            {"rule": subspaces.random_jump("blocks", 1), "store_basis": False},
            "in a basis of 3 blocks, but this transformation makes 1",
        ),
    ],
)
def test_a_state_with_other_bases_is_refused(before, now, message):
    state = split(**before).init({"w": PARAMS})
    with pytest.raises(ValueError, match=message):
        split(**now).update({"w": PARAMS}, state)


def test_a_state_of_other_dimension_numbers_is_refused():
    params = {"w": jnp.ones((4, 6, 16))}
    one, other = (split(weight_dimension_numbers=MuonDimensionNumbers(*axes)) for axes in ((1, 2), (0, 2)))
    with pytest.raises(
        ValueError, match=r"axes \(1,\) and \(2,\), but the dimension numbers .* name \(0,\) and \(2,\)"
    ):
        other.update(params, one.init(params))


@pytest.mark.parametrize("rule", [lambda: subspaces.range_finder(0), lambda: subspaces.coap(0)])
def test_rules_count_from_one(rule):
    with pytest.raises(ValueError, match="give 1 or more"):
        rule()


def test_betas_are_read_behind_whatever_clips_or_scales_the_gradient():
    before = [optax.clip_by_global_norm(1.0), optax.clip(0.1), optax.scale(2.0), optax.normalize_by_update_norm()]
    for tx in before:
        split(inner=optax.chain(tx, ADAM)).init(PARAMS)
        with pytest.raises(ValueError, match="b2 = 0.99, but the transport"):
            split(inner=optax.chain(tx, optax.scale_by_adam(b2=0.99))).init(PARAMS)


def test_an_inner_optimizer_may_need_an_extra_argument():
    def update(updates, state, params=None, *, loss):
        return ADAM.update(jax.tree.map(lambda x: loss * x, updates), state)

    tx = split(inner=optax.GradientTransformationExtraArgs(ADAM.init, update))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), loss=2.0)
    assert jnp.all(jnp.isfinite(updates))


@pytest.mark.parametrize(
    "lost",
    [optax.chain, lambda tx: optax.masked(tx, True), lambda tx: residual.per_column(optax.chain(tx))],
)
def test_a_lost_fraction_is_refused_and_can_be_marked_again(lost):
    tx = residual.recovery(None, removed_fraction=0.25)
    with pytest.raises(ValueError, match=r"removed_fraction=0.25.*Mark what you made"):
        run(split(outside=lost(tx)), PARAMS, 1)
    again = residual.marked(optax.chain(tx), per_column=True, removed_fraction=0.25)
    np.testing.assert_allclose(run(split(outside=again), PARAMS, 4)[0][3], run(split(outside=tx), PARAMS, 4)[0][3])


def test_a_residual_outside_of_a_split_says_where_it_belongs():
    tx = residual.recovery()
    with pytest.raises(TypeError, match="residual of a split"):
        tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize("of", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_residual_has_its_marks(of):
    assert of(residual.recovery(removed_fraction=0.5)).marks == residual.recovery(removed_fraction=0.5).marks


def test_functions_among_the_extra_arguments_pass_a_mesh_with_explicit_axes():
    seen = []

    def update(updates, state, params=None, **extra):
        seen.append(extra["value_fn"])
        return updates, state

    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    tx = split(outside=optax.GradientTransformationExtraArgs(optax.init_empty_state, update))
    with jax.set_mesh(mesh):
        grads = jax.device_put(PARAMS, jax.sharding.NamedSharding(mesh, jax.P("x", None)))
        state = jax.jit(tx.init)(grads)
        jax.jit(lambda g, s: tx.update(g, s, value_fn=jnp.sum, value=1.0))(grads, state)
    assert seen[-1] is jnp.sum


def test_the_narrow_moments_of_a_method_are_its_own():
    tx = grass_optax.scale_by_grassjump(rank=3, mu_dtype="bfloat16", nu_dtype="bfloat16", b2=0.95)
    narrow = optax.tree_utils.tree_get(tx.init(PARAMS), "SplitState").inner_state.narrow
    assert narrow.mu.dtype == narrow.nu.dtype == jnp.bfloat16
