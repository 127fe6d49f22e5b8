"""Algebra of the combinator, over rules and residuals: what holds whatever method they are put
together to.
"""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from grass_optax import grassmann, residual, split_by_subspace, subspaces, transport
from tests import tolerances
from tests.util import (
    STACK,
    TALL,
    WIDE,
    assert_same,
    grads_like,
    injected,
    long_but,
    make,
    matrix_of,
    of_each_kind,
    old_basis,
    run,
    stacked_dimensions,
)  # fmt: skip

PARAMS = {"wide": jnp.ones(WIDE), "tall": jnp.ones(TALL), "stack": jnp.ones(STACK)}
# Those whose bases are orthonormal, by how they are built.
ORTHONORMAL = {
    "random_jump": subspaces.random_jump(),
    "random_walk": subspaces.random_walk(),
    "random_walk of rank 3": subspaces.random_walk(walk_rank=3),
    "columns": subspaces.columns(),
    "blocks": subspaces.random_jump("blocks", 2),
    "cosine": subspaces.random_jump("cosine"),
    "svd": subspaces.svd(),
    "range_finder": subspaces.range_finder(),
    "dct": subspaces.dct(),
    "tracking": subspaces.tracking(),
    "tracking of rank 3": subspaces.tracking(tracking_rank=3),
    "tracking by 10 sigma": subspaces.tracking(10.0),
    "power_iteration": subspaces.power_iteration(0.9),
    "switch": subspaces.switch(subspaces.range_finder(), subspaces.random_jump(), 500),
}


# By default arrays that are drawn, that walk, that an SVD makes, that follow gradients and moments;
# and axes.
over_rules = pytest.mark.parametrize(
    "name", long_but(("random_jump", "random_walk", "columns", "svd", "tracking", "power_iteration"), ORTHONORMAL)
)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
@over_rules
def test_bases_stay_orthonormal(name, dtype):
    """After 1000 refreshes, of gradients in either type."""
    rule, shape, rank = ORTHONORMAL[name], (24, 40), 8

    @jax.jit
    def thousand(basis, rule_state):
        def step(carry, t):
            basis, rule_state = carry
            key = jax.random.fold_in(jax.random.key(1), t)
            grad = jax.random.normal(key, shape).astype(dtype)
            moment = optax.ScaleByAdamState(t, jax.random.normal(key, (rank, shape[1])), jnp.ones((rank, shape[1])))
            return rule.update(subspaces.Refresh(key, t, grad, basis, moment, rule_state)), None

        return jax.lax.scan(step, (basis, rule_state), jnp.arange(1, 1001))[0]

    size = (shape[0], rank)
    last, _ = thousand(old_basis(rule, size), rule.init(size, jnp.float32))
    basis = matrix_of(last)
    assert basis.dtype == jnp.float32
    assert grassmann.orthonormality_error(basis) < tolerances.ORTHONORMAL32_AFTER_1000


@over_rules
def test_a_rule_keeps_its_basis_when_the_gradient_is_not_finite(name):
    rule = ORTHONORMAL[name]
    size = (8, 4)
    old = old_basis(rule, size)
    moment = optax.ScaleByAdamState(jnp.int32(3), jnp.ones((4, 16)), jnp.ones((4, 16)))
    reads = not (rule.keyed or name.startswith("random_walk"))
    for bad in (jnp.nan, jnp.inf):
        grad = jnp.ones((8, 16)).at[1, 1].set(bad)
        refresh = subspaces.Refresh(jax.random.key(1), jnp.int32(4), grad, old, moment, rule.init(size, jnp.float32))
        kept, _ = rule.update(refresh)
        assert bool(jnp.all(matrix_of(kept) == matrix_of(old))) == reads
        if not rule.moves:
            form = rule.form(size, jnp.float32)
            first, _ = rule.update(refresh._replace(first=True, count=jnp.int32(0), basis=form))
            assert grassmann.orthonormality_error(matrix_of(first)) < tolerances.ORTHONORMAL32


RULES = {
    "jump": subspaces.random_jump(),
    "unit columns": subspaces.random_jump("gaussian"),
    "walk": subspaces.random_walk(),
    "range": subspaces.range_finder(),
    "columns": subspaces.columns(),
    "blocks": subspaces.random_jump("blocks", 2),
    "dct": subspaces.dct(),
}


@pytest.mark.parametrize("rule", long_but(("jump", "columns", "blocks"), ["jump", "range", "columns", "blocks", "dct"]))
def test_the_split_is_exact(rule):
    """S g + R = G and S^T R = 0, read off with trivial optimizers on the two sides."""
    params = {"tall": PARAMS["tall"], "stack": PARAMS["stack"], "whole": jnp.ones((2, 2))}
    options = dict(rank=2, update_proj_gap=2, weight_dimension_numbers=stacked_dimensions)
    rule = RULES[rule]
    whole = split_by_subspace(rule, optax.identity(), transport.keep(), optax.identity(), **options)
    outside = split_by_subspace(rule, optax.set_to_zero(), transport.keep(), optax.identity(), **options)
    wholes, residuals, states = run(whole, params, 4)[0], *run(outside, params, 4)
    for t in range(4):
        grads = grads_like(params, t)
        assert_same(wholes[t], grads)
        inside = grassmann.project(matrix_of(states[t].basis["stack"]), residuals[t]["stack"])
        chex.assert_trees_all_close(inside, jnp.zeros_like(inside), atol=tolerances.OUTSIDE32)
        assert jnp.linalg.norm(residuals[t]["stack"]) > 0.1 * jnp.linalg.norm(grads["stack"])


def unmarked(tx):
    """The same residual, given R itself."""
    return residual.marked(tx, removed_fraction=tx.marks.removed_fraction)


RESIDUALS = {
    "recovery": residual.recovery(),
    "recovery of the scaled residual": residual.recovery(removed_fraction=0.25),
    "recovery without limit": residual.recovery(None),
    "channel": residual.channel_scaling(scale=4.0),
    "tensor": residual.tensor_scaling(scale=128.0),
}


@pytest.mark.parametrize(
    ("rule", "form", "basis_dtype"),
    long_but(
        [
            ("walk", "recovery", None),
            *(("jump", form, None) for form in ("recovery without limit", "channel", "tensor")),
            ("unit columns", "recovery of the scaled residual", None),
        ],
        [
            *((rule, "recovery", None) for rule in ("jump", "unit columns", "walk", "range")),
            *((rule, "recovery", "bfloat16") for rule in ("unit columns", "walk")),
            *(("jump", form, None) for form in RESIDUALS if form != "recovery"),
            ("unit columns", "recovery of the scaled residual", None),
        ],
    ),
)
def test_per_column_form_is_the_dense_form(rule, form, basis_dtype):
    forms = [
        split_by_subspace(
            RULES[rule], optax.scale_by_adam(), transport.rotate(0.9, 0.999), tx, initial=RULES["range"],
            rank=3, update_proj_gap=3, weight_dimension_numbers=stacked_dimensions, basis_dtype=basis_dtype,
            lift=form not in ("channel", "tensor"),
        )
        for tx in (RESIDUALS[form], unmarked(RESIDUALS[form]))
    ]  # fmt: skip
    per_column, dense = (run(tx, PARAMS["stack"], 8)[0] for tx in forms)
    assert_same(per_column, dense, tolerances.SAME32 if basis_dtype is None else tolerances.BF16_LIFT)


@pytest.mark.parametrize(
    "rule",
    long_but(("random_jump", "svd", "frozen"), ["tracking", "random_walk", "random_jump", "svd", "frozen"]),
)
def test_the_cells_of_the_ablation_are_compositions_that_differ(rule):
    """The papers' cells: four rules, and a frozen basis, with moments kept or rotated, the rest
    dropped or recovered.

    They are compositions. With the moments kept and the rest dropped the four corners differ from
    each other.
    """
    rules = ORTHONORMAL | {"frozen": subspaces.frozen()}
    cells = [
        split_by_subspace(
            rules[rule], optax.scale_by_adam(), moved, rest, initial=subspaces.svd(), rank=3, update_proj_gap=3
        )
        for moved in (transport.keep(), transport.rotate(0.9, 0.999))
        for rest in (None, residual.recovery())
    ]
    update = jax.jit(lambda grads, states: [tx.update(grads, state) for tx, state in zip(cells, states, strict=True)])
    states = [tx.init(PARAMS["wide"]) for tx in cells]
    for t in range(8):
        outcomes = update(grads_like(PARAMS["wide"], t), states)
        states = [state for _, state in outcomes]
    ends = [jnp.asarray(u) for u, _ in outcomes]
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in ends)
    ranks = [int(jnp.linalg.matrix_rank(u, rtol=1e-4)) for u in ends]
    assert ranks == [3, 6, 3, 6]
    moved = float(jnp.linalg.norm(ends[0] - ends[2]))
    assert (moved < 1e-4) == (rule == "frozen")  # what does not move needs no transport


def test_a_rule_that_starts_from_a_basis_needs_a_first_one():
    with pytest.raises(ValueError, match=r"another rule must make the first.*range_finder"):
        split_by_subspace(
            subspaces.tracking(), optax.scale_by_adam(), transport.keep(), None, rank=3, update_proj_gap=2
        )


@pytest.mark.parametrize(
    ("rule", "initial"),
    [
        (subspaces.frozen(), subspaces.random_jump("gaussian")),
        (subspaces.frozen(jnp.ones((6, 2)) / 2, orthonormal=False), None),
    ],
)
def test_per_column_form_knows_a_first_basis_that_is_not_orthonormal(rule, initial):
    forms = [
        split_by_subspace(
            rule, optax.scale_by_adam(), transport.keep(), form, initial=initial, rank=2, update_proj_gap=3
        )
        for form in (residual.recovery(), unmarked(residual.recovery()))
    ]
    per_column, dense = (run(tx, PARAMS["wide"], 4)[0] for tx in forms)
    assert_same(per_column, dense)


def test_a_split_of_the_whole_space_is_adam():
    """r = m, S = I, scale 1: the split changes nothing."""
    frozen = subspaces.frozen(jnp.eye(6))
    tx = split_by_subspace(
        frozen, optax.scale_by_adam(), transport.rotate(0.9, 0.999), residual.recovery(), rank=6, update_proj_gap=3
    )
    assert_same(run(tx, PARAMS["wide"], 8)[0], run(optax.scale_by_adam(), PARAMS["wide"], 8)[0])


def test_a_stack_gets_what_its_matrices_get_in_the_same_bases():
    """U of a stack is the stack of the U, given the same bases."""
    params, gap = jnp.zeros(STACK), 3
    options = dict(rank=3, update_proj_gap=gap, weight_dimension_numbers=stacked_dimensions)
    axes = optax.scale_by_adam(), transport.rotate(0.9, 0.999), residual.recovery()
    stacked = split_by_subspace(subspaces.random_jump(), *axes, **options)
    updates, states = run(stacked, params, 8)
    for i in range(STACK[0]):
        bases = [states[t].basis[i] for t in range(0, 8, gap)]
        single = split_by_subspace(injected(bases, gap), *axes, **options)
        state, update = single.init(params[i]), jax.jit(single.update)
        for t in range(8):
            u, state = update(grads_like(params, t)[i], state)
            assert_same(u, updates[t][i])


@of_each_kind(("grassjump",), ["grassjump", "subtrack_grad", "ldadam", "apollo"])
def test_a_stack_updated_matrix_by_matrix_gets_the_same_numbers(name):
    """Recovered, dropped, dense and unlifted residuals, of one batch axis and of two: the loop
    changes no number.
    """
    params = {"wide": jnp.ones((6, 16)), "stack": jnp.ones((3, 6, 16)), "deep": jnp.ones((2, 3, 16, 6))}
    (together, _), (one_by_one, _) = (run(make(name, map_stacks=given), params, 6) for given in (False, True))
    for expected, updates in zip(together, one_by_one, strict=True):
        assert_same(updates, expected)
