"""Every optimizer by name: its row is true of the library, and the trainer's flags reach it."""

import dataclasses
import functools
import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import subspaces, transport
from grass_optax.bases import blocks
from tests import tolerances
from tests.util import OF_CHEAP_KINDS, long_but
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import KNOBS, OPTIMIZERS, SPLIT_ARGUMENTS, OptimizerName
from train.config.schedule import ScheduleFlags
from train.config.validate import NARROWEST_BLOCK
from train.program.kernels import stacked_kernels
from train.program.measurements import diagnostics
from train.program.optimizer import make_optimizer, state_bytes
from train.storage.quantities import DIAGNOSTICS

SCHEDULE = ScheduleFlags(steps=20, warmup=0)
METHODS = {name: row for name, row in OPTIMIZERS.items() if not row.is_baseline}
BASELINES = [name for name, row in OPTIMIZERS.items() if row.package == "optax"]
# As in the model: a head that no method splits, a stack of two kernels, norms.
SHAPES = {"lm_head": {"kernel": (8, 11)}, "layers": {"up": {"kernel": (2, 8, 12)}, "norm": {"scale": (2, 8)}}}


def random_tree(seed: int) -> Any:
    draw = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda shape: jnp.asarray(draw.normal(size=shape), jnp.float32), SHAPES, is_leaf=is_shape)


PARAMS, GRADS = random_tree(0), random_tree(1)


def optimizer(name: OptimizerName, **flags: Any) -> optax.GradientTransformation:
    settings = {
        "learning_rate": 0.01,
        "rank": 2,
        "update_proj_gap": 3,
        "scale": OPTIMIZERS[name].scale,
        "clip": 0.0,
    } | flags
    return make_optimizer(OptimizerFlags(optimizer=name, **settings), SCHEDULE, seed=0)


def signature(name: OptimizerName) -> dict[str, Any]:
    parameters = inspect.signature(getattr(grass_optax, name)).parameters
    return {parameter.name: parameter.default for parameter in parameters.values()}


@pytest.mark.parametrize("name", METHODS)
def test_a_row_has_the_defaults_of_the_function(name: OptimizerName) -> None:
    defaults, row = signature(name), OPTIMIZERS[name]
    if "scale" in row.takes:
        assert defaults["scale"] == row.scale
    if row.update_proj_gap is not None:
        assert defaults[row.gap_argument] == row.update_proj_gap


@pytest.mark.parametrize("name", METHODS)
def test_a_row_lists_the_arguments_that_the_function_takes(name: OptimizerName) -> None:
    defaults, row = signature(name), OPTIMIZERS[name]
    # Badam's blocks are something else, and apollo stores no bases unless it is asked to.
    knobs = KNOBS if "basis" in defaults else KNOBS - {"blocks", "store_basis"}
    assert row.takes == defaults.keys() & (SPLIT_ARGUMENTS | knobs | {row.gap_argument})
    flags = {field.name: field.default for field in dataclasses.fields(OptimizerFlags)}
    assert all(flags[name] == defaults[name] for name in row.takes & KNOBS & flags.keys())
    assert (row.update_proj_gap is not None) == (row.gap_argument in row.takes)
    # Everything else has a default, so a row that lacks something is a TypeError here.
    required = {argument for argument, default in defaults.items() if default is inspect.Parameter.empty}
    assert required - {"learning_rate", "rank"} == row.run_fractions.keys()
    assert set(row.static_integers) <= defaults.keys()


def test_the_narrowest_block_is_the_library_s() -> None:
    assert blocks.WIDTH == NARROWEST_BLOCK


def test_a_number_of_blocks_arrives() -> None:
    state = optimizer("grassjump", basis="blocks:2").init(PARAMS)
    basis = optax.tree_utils.tree_get(state, "SplitState").basis["layers"]["up"]["kernel"]
    assert basis.blocks.shape == (2, 2, 4, 1)


@pytest.mark.parametrize("name", ["grassjump", "assemble"])
def test_bases_that_are_not_stored_are_drawn_again(name: OptimizerName) -> None:
    stored, drawn = (optimizer(name, store_basis=is_stored) for is_stored in (True, False))
    numbers = [x.size for x in jax.tree.leaves(optax.tree_utils.tree_get(stored.init(PARAMS), "SplitState").basis)]
    assert state_bytes(stored, PARAMS) - state_bytes(drawn, PARAMS) == 4 * sum(numbers) > 0
    for x, y in zip(*map(jax.tree.leaves, map(updates_of, (stored, drawn))), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["grassjump", "galore", "assemble"])
def test_bases_are_kept_in_their_type(name: OptimizerName) -> None:
    def basis(**flags: Any) -> list[jax.Array]:
        return jax.tree.leaves(optax.tree_utils.tree_get(optimizer(name, **flags).init(PARAMS), "SplitState").basis)

    full, half = basis(), basis(basis_dtype="bfloat16")
    assert {x.dtype for x in full} == {jnp.dtype("float32")}
    assert {x.dtype for x in half} == {jnp.dtype("bfloat16")}
    assert sum(x.nbytes for x in full) == 2 * sum(x.nbytes for x in half) > 0


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("grassjump", {"rule": "random_jump", "completion": "isotropic"}),
        ("grasswalk", {"rule": "random_walk", "max_norm_growth": 1.5}),
        ("subtrack", {"rule": "tracking", "step_size": 10.0}),
        ("subtrack_grad", {"rule": "tracking", "transport": "keep", "residual": "dropped"}),
        ("fira", {"rule": "svd", "transport": "keep", "max_norm_growth": None}),
    ],
)
def test_published_methods_are_cells_of_the_grid_of_axes(name: OptimizerName, axes: dict[str, Any]) -> None:
    """Over two refreshes, bit for bit; a knob reaches the method and the grid alike."""
    own = {flag: value for flag, value in axes.items() if flag in KNOBS}
    published, assembled = optimizer(name, **own), optimizer("assemble", **axes, scale=OPTIMIZERS[name].scale)
    results = [updates_of(tx) for tx in (published, assembled)]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *results)))
    if own:
        plain = updates_of(optimizer(name))
        assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, results[0], plain)))


def updates_of(tx: optax.GradientTransformation) -> list[Any]:
    """Updates of gradients that change and grow, so that a limit is felt."""
    state, found, update = tx.init(PARAMS), [], jax.jit(tx.update)
    for step in range(5):
        grads = jax.tree.map(lambda x, t=step: (1 + t) * x, random_tree(step))
        updates, state = update(grads, state, PARAMS)
        found.append(updates)
    return found


def bases_of(tx: optax.GradientTransformation) -> list[jax.Array]:
    state, bases, update = tx.init(PARAMS), [], jax.jit(tx.update)
    for step in range(5):
        _, state = update(random_tree(step), state, PARAMS)
        bases.append(optax.tree_utils.tree_get(state, "SplitState").basis["layers"]["up"]["kernel"])
    return bases


def test_a_walk_with_jumps_has_the_bases_of_the_library() -> None:
    """The second and the fourth refresh jump, which no turn by 0.1 does."""
    walk = subspaces.random_walk(0.1)
    tx = grass_optax.assemble(
        subspaces.interleave(walk, subspaces.random_jump(), every=2), transport.rotate(0.9, 0.999), None,
        initial=subspaces.range_finder(), rank=2, update_proj_gap=1, key=0,
        weight_dimension_numbers=functools.partial(stacked_kernels, rank=2),
    )  # fmt: skip
    axes = {"rule": "random_walk_with_jumps", "residual": "dropped", "update_proj_gap": 1, "step_size": 0.1}
    bases = bases_of(optimizer("assemble", jump_every=2, **axes))
    for found, expected in zip(bases, bases_of(tx), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerances.SAME32)
    cosines = [np.linalg.svd(np.swapaxes(a, -1, -2) @ b)[1].min() for a, b in itertools.pairwise(bases)]
    assert [cosine < 0.99 for cosine in cosines] == [False, True, False, True]


def test_a_frozen_subspace_stays_where_it_began() -> None:
    bases = bases_of(optimizer("assemble", rule="frozen", residual="sign", transport="reset"))
    assert np.any(bases[0])
    assert all(np.array_equal(basis, bases[0]) for basis in bases)


def test_every_method_of_the_library_has_a_row() -> None:
    names = {name.removeprefix("scale_by_") for name in grass_optax.__all__ if name.startswith("scale_by_")}
    assert names == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_row_says_whether_the_method_splits(name: OptimizerName) -> None:
    state = jax.eval_shape(optimizer(name).init, PARAMS)
    assert bool(optax.tree_utils.tree_get_all_with_path(state, "SplitState")) == OPTIMIZERS[name].splits


@pytest.mark.parametrize(
    "name", long_but(["fira", "frugal", "gwt"], [name for name in METHODS if OPTIMIZERS[name].splits])
)
def test_the_subspaces_of_a_method_that_shows_them_can_be_measured(name: OptimizerName) -> None:
    """Every quantity that the table has, for every layer; `limited` only of a residual with a
    limit, which gwt has inside its subspace.
    """
    row, state = OPTIMIZERS[name], jax.eval_shape(optimizer(name).init, PARAMS)
    measure = functools.partial(diagnostics, OptimizerFlags(optimizer=name))
    if not row.shows_subspaces:
        with pytest.raises(ValueError, match="made again"):
            jax.eval_shape(measure, state, state, GRADS)
        return
    found = jax.eval_shape(measure, state, state, GRADS)
    assert found.keys() == DIAGNOSTICS.keys() - (
        set() if has_limit(name) and name != "gwt" else {"recovered", "limited"}
    )
    for of_types in found.values():
        assert {kind: x.shape[0] for kind, x in of_types.items()} == {"layers/up/kernel": 2}


def test_the_angles_of_a_walk_are_those_that_it_turns_by() -> None:
    """One of two directions by 0.3. Before the first update there is no subspace: a right angle."""
    flags = {"rank": 2, "update_proj_gap": 1, "step_size": 0.3}
    tx, measure = optimizer("grasswalk", **flags), functools.partial(diagnostics, OptimizerFlags(rank=2))
    before = tx.init(PARAMS)
    for mean, largest in ((np.pi / 2, np.pi / 2), (0.15, 0.3)):
        _, after = tx.update(GRADS, before, PARAMS)
        measured = measure(before, after, GRADS)
        for quantity, angle in (("angle_mean", mean), ("angle_largest", largest)):
            np.testing.assert_allclose(measured[quantity]["layers/up/kernel"], angle, atol=tolerances.SAME32)
        before = after


def has_limit(name: OptimizerName) -> bool:
    return "max_norm_growth" in signature(name)


def test_the_limit_is_that_of_the_library() -> None:
    assert {signature(name)["max_norm_growth"] for name in filter(has_limit, METHODS)} == {
        OptimizerFlags.max_norm_growth
    }


def test_arguments_have_the_names_of_the_function() -> None:
    settings = {"rank": 4, "update_proj_gap": 7, "scale": 2.0, "key": 1, "map_stacks": True}
    assert OPTIMIZERS["galore"].arguments(**settings) == settings
    assert OPTIMIZERS["apollo_mini"].arguments(**settings).keys() == settings.keys() - {"rank"}
    assert OPTIMIZERS["badam"].arguments(**settings) == {"switch_gap": 7, "key": 1}
    assert OPTIMIZERS["adamw"].arguments(**settings) == {}


@pytest.mark.parametrize("name", long_but((*OF_CHEAP_KINDS, *BASELINES), [*METHODS, *BASELINES]))
def test_an_update_is_finite_and_its_flags_arrive(name: OptimizerName) -> None:
    @jax.jit
    def update(scale: float, adam_learning_rate: float) -> Any:
        tx = optimizer(name, scale=scale, adam_learning_rate=adam_learning_rate)
        state = tx.init(PARAMS)
        updates, after = tx.update(GRADS, state, PARAMS)
        same = jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), state, after)
        assert all(jax.tree.leaves(same))
        return updates, after

    updates, state = update(OPTIMIZERS[name].scale, 0.01)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)) if leaf.dtype.kind == "f")
    assert state_bytes(optimizer(name, adam_learning_rate=0.01), PARAMS) == sum(
        leaf.nbytes for leaf in jax.tree.leaves(state)
    )
    assert any(np.any(leaf) for leaf in jax.tree.leaves(updates["layers"]["up"]))
    faster, _ = update(OPTIMIZERS[name].scale, 0.03)
    np.testing.assert_allclose(faster["layers"]["norm"]["scale"], 3 * updates["layers"]["norm"]["scale"], rtol=1e-5)
    np.testing.assert_array_equal(faster["layers"]["up"]["kernel"], updates["layers"]["up"]["kernel"])
    scaled, _ = update(4 * OPTIMIZERS[name].scale, 0.01)
    np.testing.assert_array_equal(scaled["lm_head"]["kernel"], updates["lm_head"]["kernel"])
    np.testing.assert_array_equal(scaled["layers"]["norm"]["scale"], updates["layers"]["norm"]["scale"])
    is_same = np.array_equal(scaled["layers"]["up"]["kernel"], updates["layers"]["up"]["kernel"])
    assert is_same == (not OPTIMIZERS[name].has_scale)


@pytest.mark.parametrize("name", BASELINES)
def test_the_scale_of_a_baseline_is_the_rate_of_its_kernels(name: OptimizerName) -> None:
    def update(**flags: float) -> Any:
        tx = optimizer(name, **flags)
        return jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)[0]

    one, quarter, other = update(), update(scale=0.25), update(learning_rate=0.0025, adam_learning_rate=0.01)
    np.testing.assert_allclose(quarter["layers"]["up"]["kernel"], 0.25 * one["layers"]["up"]["kernel"], rtol=1e-6)
    for x, y in zip(jax.tree.leaves(quarter), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_the_moments_of_a_baseline_are_float32_like_those_of_the_methods(name: OptimizerName) -> None:
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = optimizer(name)
    updates, state = jax.eval_shape(lambda: tx.update(params, tx.init(params), params))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim > 1} == {"float32"}


def test_parameters_that_muon_leaves_alone_get_the_adamw_of_adamw() -> None:
    updates = {}
    for name in BASELINES:
        tx = optimizer(name, weight_decay=0.1)
        state = tx.init(PARAMS)
        for grads in (GRADS, PARAMS):
            updates[name], state = tx.update(grads, state, PARAMS)
    adamw, muon = updates["adamw"], updates["muon"]
    np.testing.assert_array_equal(muon["lm_head"]["kernel"], adamw["lm_head"]["kernel"])
    np.testing.assert_array_equal(muon["layers"]["norm"]["scale"], adamw["layers"]["norm"]["scale"])


def test_muon_moves_a_kernel_as_far_as_adamw() -> None:
    """The root mean square of its update is 0.2 lr for any shape, within the accuracy of its five
    iterations.
    """
    for shape in ((1, 8, 8), (1, 64, 16), (3, 16, 64)):
        params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}
        tx = optimizer("muon")
        update = jax.jit(tx.update)(params, tx.init(params), params)[0]["kernel"]
        # Muon's iteration stops at singular values between 0.7 and 1.2, and the update is in
        # proportion to them.
        assert 0.65 < np.sqrt(np.mean(update**2)) / (0.2 * 0.01) < 1.25


def test_moments_have_the_types_of_the_flags() -> None:
    state = jax.eval_shape(optimizer("grassjump", mu_dtype="bfloat16", nu_dtype="float8").init, PARAMS)
    (split,) = optax.tree_utils.tree_get_all_with_path(state, "SplitState")
    narrow = split[1].inner_state.narrow
    assert narrow.mu["layers"]["up"]["kernel"].dtype == jnp.bfloat16
    assert narrow.nu["layers"]["up"]["kernel"].dtype == jnp.float8_e4m3fn


def arguments_of(name: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keyword arguments that the trainer passes to the function."""
    passed: dict[str, Any] = {}

    def method(*_: Any, **options: Any) -> optax.GradientTransformation:
        passed.update(options)
        return optax.identity()

    monkeypatch.setattr(grass_optax, name, method)
    optimizer(name)
    return passed


def test_golore_turns_random_for_the_last_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments_of("golore", monkeypatch)["random_start"] == 16


def test_badam_switches_blocks_at_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = arguments_of("badam", monkeypatch)
    assert passed["switch_gap"] == 3
    rest = {"weight_decay", "mask", "weight_dimension_numbers", "adam_learning_rate", "mu_dtype", "nu_dtype", "key"}
    assert passed.keys() == {"switch_gap"} | rest


@pytest.mark.parametrize("name", ["grassjump", "galore", "frugal"])
def test_kernels_without_a_subspace_of_the_rank_get_adam(name: OptimizerName) -> None:
    """Keys of grouped queries are narrower than a rank that suits the other kernels."""
    params = {"q": {"kernel": jnp.ones((2, 16, 16))}, "k": {"kernel": jnp.ones((2, 16, 4))}}
    taken = {rank: state_bytes(optimizer(name, rank=rank), params) for rank in (3, 4)}
    alone = {rank: state_bytes(optimizer(name, rank=rank), {"q": params["q"]}) for rank in (3, 4)}
    adam = 2 * 4 * 2 * 16 * 4
    assert taken[3] - alone[3] < adam
    assert taken[4] - alone[4] == adam
