"""The step that updates inside the backward pass: its clips, its memory, what it refuses."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import Clip
from tests.library.backward.models import (
    INNER,
    LAYERS,
    WIDTH,
    batch,
    dimensions,
    fused,
    loss,
    matrices,
    parameters,
    plain_step,
    train,
)
from tests.util import long_but

JUMP = grass_optax.grassjump(0.01, rank=2, update_proj_gap=3, weight_dimension_numbers=dimensions)
STEPS = 7


def start(tx, dtype=jnp.float32):
    params = parameters(dtype)
    return params, tx.init(params)


def close(left, right, tolerance=1e-12):
    chex.assert_trees_all_close(left, right, atol=tolerance, rtol=tolerance)


def test_the_loss_of_the_parts_is_that_of_the_layers_one_by_one():
    params = parameters()
    rest, layers = loss.parted(params)
    x, context = loss.embed(rest, batch(0))
    for i in range(LAYERS):
        x = loss.block(jax.tree.map(lambda leaf, i=i: leaf[i], layers), x, context)
    np.testing.assert_allclose(loss(params, batch(0)), loss.head(rest, x, batch(0)), rtol=1e-6)


@pytest.mark.parametrize("keep_every", long_but([2], [1, 2, LAYERS]))
def test_the_result_is_that_of_the_plain_step_clipped_by_the_global_norm(keep_every):
    with jax.enable_x64(True):
        params, state = start(JUMP, jnp.float64)
        plain = optax.chain(optax.clip_by_global_norm(0.1), JUMP)
        expected, plain_state, losses = train(plain_step(plain), params, plain.init(params), STEPS)
        step = fused(JUMP, clip=Clip(max_norm=0.1), keep_every=keep_every)
        found, found_state, found_losses = train(step, params, state, STEPS)
        close((found, found_state, found_losses), (expected, plain_state[1], losses))


def test_a_run_can_change_between_the_two_forms():
    with jax.enable_x64(True):
        params, state = start(JUMP, jnp.float64)
        expected = train(plain_step(JUMP), params, state, STEPS)[:2]
        for before, after in ((plain_step(JUMP), fused(JUMP)), (fused(JUMP), plain_step(JUMP))):
            half = train(before, params, state, 4)[:2]
            close(train(after, *half, STEPS - 4, start=4)[:2], expected)


NORMS_OF_LEAVES = {"lars": optax.lars(0.1), "lamb": optax.lamb(0.01), "adafactor": optax.adafactor(0.01)}


@pytest.mark.parametrize("name", long_but(["lamb"], NORMS_OF_LEAVES))
def test_a_norm_of_a_leaf_is_that_of_a_layer(name):
    """As if the matrices of each layer were leaves of their own."""

    def apart(params):
        layers = {name: list(x) if x.ndim == 3 else x for name, x in params["layers"].items()}
        return params | {"layers": layers}

    def together(params):
        layers = {name: jnp.stack(x) if isinstance(x, list) else x for name, x in params["layers"].items()}
        return params | {"layers": layers}

    def plain(params, state, batch):
        value, grads = jax.value_and_grad(lambda params: loss(together(params), batch))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grass_optax.BackwardReport(value, jnp.zeros(()))

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Adafactor's rates are float32
        tx = NORMS_OF_LEAVES[name]
        params, state = start(tx, jnp.float64)
        expected, _, losses = train(plain, apart(params), tx.init(apart(params)), STEPS)
        found, _, found_losses = train(fused(tx), params, state, STEPS)
        close((found, found_losses), (together(expected), losses))
        whole, _, _ = train(plain_step(tx), params, state, STEPS)
        assert not np.allclose(whole["layers"]["up"], found["layers"]["up"], rtol=1e-4)


def test_the_previous_norm_clips_the_next_step():
    tx, clip = optax.sgd(0.1), Clip(max_norm=0.1, by="previous")
    params, state = start(tx)
    step, norm = jax.jit(fused(tx, clip=clip)), jnp.zeros(())
    expected, expected_norm = params, 0.0
    for t in range(3):
        grads = jax.grad(loss)(expected, batch(t))
        factor = min(1, 0.1 / expected_norm) if t else 1
        expected = jax.tree.map(lambda p, g, factor=factor: p - 0.1 * factor * g, expected, grads)
        expected_norm = optax.tree.norm(grads)
        params, state, report = step(params, state, batch(t), norm)
        norm = report.grad_norm
        np.testing.assert_allclose(norm, expected_norm, rtol=1e-5)
    close(params, expected, 1e-6)


def test_a_step_that_changed_nothing_does_not_spoil_the_next():
    """Its norm, by which the next step would be clipped, is not finite."""
    tx, clip = optax.sgd(0.1), Clip(max_norm=0.1, by="previous")
    params, state = start(tx)
    step = jax.jit(fused(tx, clip=clip))
    bad = batch(0) | {"shift": jnp.asarray(jnp.nan)}
    params, state, report = step(params, state, bad, jnp.zeros(()))
    assert not jnp.isfinite(report.grad_norm)
    after = step(params, state, batch(1), report.grad_norm)[0]
    close(after, step(params, state, batch(1), jnp.zeros(()))[0], 1e-7)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(after))


def test_every_layer_can_be_clipped_by_itself():
    tx = optax.sgd(1.0)
    params, state = start(tx)
    grads = jax.grad(loss)(params, batch(0))

    def clipped(tree):
        return jax.tree.map(lambda g: g * min(1, 0.05 / optax.tree.norm(tree)), tree)

    rest, layers = loss.parted(grads)
    by_layer = [clipped(jax.tree.map(lambda x, i=i: x[i], layers)) for i in range(LAYERS)]
    assert any(optax.tree.norm(layer) > 0.049 for layer in by_layer), "some layer must be clipped"
    whole = {**clipped(rest), "layers": jax.tree.map(lambda *x: jnp.stack(x), *by_layer)}
    found, _, report = fused(tx, clip=Clip(max_norm=0.05, by="layer"))(params, state, batch(0))
    close(found, jax.tree.map(jnp.subtract, params, whole), 1e-6)
    np.testing.assert_allclose(report.grad_norm, optax.tree.norm(grads), rtol=1e-5)


@pytest.mark.parametrize("clip", [None, Clip(max_norm=1.0)])
def test_a_loss_that_is_not_finite_changes_nothing(clip):
    params, state = start(JUMP)
    bad = batch(0) | {"shift": jnp.asarray(jnp.nan)}
    found, found_state, report = jax.jit(fused(JUMP, clip=clip))(params, state, bad)
    assert not jnp.isfinite(report.loss)
    chex.assert_trees_all_equal((found, found_state), (params, state))


@pytest.mark.long
def test_the_states_of_all_narrow_types_are_those_of_the_plain_step():
    """Draws of rounding too, those of a transport included, are those of the matrix."""
    tx = grass_optax.grassjump(
        0.01,
        rank=4,
        update_proj_gap=3,
        basis="blocks",
        weight_dimension_numbers=dimensions,
        mu_dtype="float8_e4m3fn",
        nu_dtype="bfloat16",
    )
    with jax.enable_x64(True):  # so that no rounding of a product moves a number to another neighbour
        params, state = start(tx, jnp.float64)
        expected = train(plain_step(tx), params, state, STEPS)[:2]
        found = train(fused(tx), params, state, STEPS)[:2]
        close(found[0], expected[0])
        chex.assert_trees_all_equal(
            *(jax.tree.map(lambda x: x if x.dtype.itemsize < 4 else 0, state) for _, state in (found, expected))
        )


@pytest.mark.long
def test_weights_of_16_bits_are_rounded_as_by_the_plain_step():
    """Draws are those of the matrix; a gradient in bfloat16 may differ in its last bit."""
    tx = optax.chain(optax.sgd(0.01), grass_optax.stochastic_rounding(3))
    params = parameters(jnp.bfloat16)
    state = tx.init(params)
    found = jax.jit(fused(tx))(params, state, batch(0, jnp.bfloat16))[0]
    grads = jax.jit(jax.grad(loss))(params, batch(0, jnp.bfloat16))
    updates, _ = tx.update(grads, state, params)
    with jax.numpy_dtype_promotion("standard"):
        expected = optax.apply_updates(params, updates)
    same = jax.tree.map(lambda x, y: float(jnp.mean(x == y)), found, expected)["layers"]
    assert min(same["up"], same["down"]) > 0.98, same
    rounded = jax.tree.map(lambda x, y: float(jnp.mean(x == y)), found, params)
    assert rounded["layers"]["up"] < 0.95, "some weights must have moved"


def test_weights_in_int8_are_rounded_as_by_the_plain_step():
    """To the same codes: draws are those of the matrix, and differences of rounding move few."""
    tx = grass_optax.in_int8(optax.adam(0.01), 3)
    params = grass_optax.to_int8(parameters(), matrices)
    state = tx.init(params)
    expected = train(plain_step(tx), params, state, STEPS)
    found = train(fused(tx), params, state, STEPS)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-3)
    same = jax.tree.map(lambda x, y: float(jnp.mean(x == y)), found[0]["layers"], expected[0]["layers"])
    assert min(same["up"].codes, same["down"].codes) > 0.98, same
    moved = jax.tree.map(lambda x, y: float(jnp.mean(x != y)), found[0]["layers"], params["layers"])
    assert moved["up"].codes > 0.3, "codes must have moved"
    np.testing.assert_allclose(loss(params, batch(0)), loss(grass_optax.from_int8(params), batch(0)), rtol=1e-6)


# --- memory ---------------------------------------------------------------------------------------


def of_wide_layers(tx, step_of, store=lambda params: params):
    """The compiled step of 16 layers of 64 x 1024, whose weights are stored by a function."""
    layers, width, inner, rows = 16, 64, 1024, 32
    big = grass_optax.ScannedLoss(
        embed=lambda w, x: (x @ w["in"], None),
        block=lambda layer, x, _: x + jnp.tanh(x @ layer["up"]) @ layer["down"],
        head=lambda w, x, batch: jnp.mean((x @ w["in"].T - batch) ** 2),
    )
    shape = jax.ShapeDtypeStruct
    params = {
        "in": shape((8, width), jnp.float32),
        "layers": {
            "up": shape((layers, width, inner), jnp.float32),
            "down": shape((layers, inner, width), jnp.float32),
        },
    }
    params = jax.eval_shape(store, params)
    state = jax.eval_shape(tx.init, params)
    x = shape((rows, 8), jnp.float32)
    compiled = jax.jit(step_of(big, tx), donate_argnums=(0, 1)).lower(params, state, x).compile()
    layer = 2 * width * inner * 4
    saved = layers * rows * width * 4
    return compiled, state, layer, saved + rows * inner * 4  # and what is between its kernels


@pytest.mark.parametrize("name", ["adam", "grassjump"])
@pytest.mark.parametrize("clip", [None, Clip(max_norm=1.0)])
def test_no_stack_is_copied_and_what_one_layer_has_is_all_that_is_there(name, clip):
    tx = optax.adam(0.1) if name == "adam" else grass_optax.grassjump(
        0.1, rank=16, update_proj_gap=3, weight_dimension_numbers=dimensions
    )  # fmt: skip
    compiled, state, layer, activations = of_wide_layers(
        tx, lambda big, tx: grass_optax.update_in_backward(big, tx, clip=clip)
    )
    memory = compiled.memory_analysis()
    of_state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / 16
    # Of one layer: its parameters, its gradients and its state. And with bases what it is lifted
    # to, which XLA on CPU computes for both matrices at once, and new moments.
    more = layer + of_state if name == "grassjump" else 0
    assert memory.temp_size_in_bytes < 2 * layer + of_state + more + activations
    copied = re.findall(r"= f32\[16,\d+,\d+\]\S* copy\(", compiled.as_text())
    assert not copied
    assert memory.alias_size_in_bytes > 0.99 * memory.output_size_in_bytes - 100


def test_weights_in_int8_are_never_there_as_a_stack_of_floats():
    compiled, *_ = of_wide_layers(
        grass_optax.in_int8(optax.sgd(0.1)),
        lambda big, tx: grass_optax.update_in_backward(big, tx, clip=Clip(max_norm=1.0)),
        lambda params: grass_optax.to_int8(params, matrices),
    )
    text = compiled.as_text()
    assert {"s8[16,64,1024]", "s8[16,1024,64]"} <= set(re.findall(r"s8\[[\d,]+\]", text))
    assert not re.findall(r"(?:f32|bf16)\[16,(?:64,1024|1024,64)\]", text)
    assert not re.findall(r"= s8\[16,\d+,\d+\]\S* copy\(", text)


def test_layers_are_written_in_the_layout_of_arguments():
    """What else reads them could ask for another layout of the stack, which would be copied."""
    shape = jax.ShapeDtypeStruct
    params = parameters() | {"layers": {"norm": shape((4, 128), jnp.float32), "up": shape((4, 128, 256), jnp.float32)}}
    wide = grass_optax.ScannedLoss(
        embed=lambda w, x: (x @ w["embed"], None),
        block=lambda layer, x, _: x * layer["norm"][None] + jnp.tanh(x @ layer["up"])[:, :128],
        head=lambda w, x, _: jnp.mean(x),
    )
    params["embed"], tx = shape((8, 128), jnp.float32), optax.adam(0.1)
    step = jax.jit(grass_optax.update_in_backward(wide, tx))
    lines = step.lower(params, jax.eval_shape(tx.init, params), shape((3, 8), jnp.float32)).as_text().splitlines()
    in_order = {line.split(" = ")[0].strip() for line in lines if "@LayoutConstraint" in line}
    writes = [found[1] for line in lines if (found := re.search(r"update_slice %\w+, (%\w+).*<4x128x256xf32>$", line))]
    assert len(writes) == 3  # the kernel and its two moments
    assert set(writes) <= in_order


def test_inputs_are_saved_for_every_kth_layer_and_computed_again_for_k():
    """16 inputs for k = 1, and 4 + 4 for k = 4."""
    layers, width, rows = 16, 64, 4096
    wide = grass_optax.ScannedLoss(
        embed=lambda w, x: (x @ w["in"], None),
        block=lambda layer, x, _: x + jnp.tanh(x @ layer["up"]),
        head=lambda w, x, batch: jnp.mean((x @ w["in"].T - batch) ** 2),
    )
    shape, tx = jax.ShapeDtypeStruct, optax.sgd(0.1)
    params = {"in": shape((8, width), jnp.float32), "layers": {"up": shape((layers, width, width), jnp.float32)}}

    def temporaries(keep_every):
        step = grass_optax.update_in_backward(wide, tx, keep_every=keep_every)
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), shape((rows, 8), jnp.float32))
        return lowered.compile().memory_analysis().temp_size_in_bytes / (rows * width * 4)

    assert temporaries(4) < temporaries(1) - 6


# --- refusals -------------------------------------------------------------------------------------


def clip_of(*names):
    """A clip by the common norm of some parameters."""
    return optax.masked(optax.clip_by_global_norm(1.0), {name: name in names for name in parameters()})


@pytest.mark.parametrize(
    ("tx", "reason"),
    [
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), "depends on the gradient of"),
        (optax.apply_if_finite(optax.adam(0.1), 3), "depends on the gradient of"),
        (grass_optax.badam(0.1, switch_gap=2), "depends on the gradient of"),
        (clip_of("layers"), "'layers/down' depends on the gradient of 'layers/"),
        (clip_of("embed", "bias"), None),
        (optax.inject_hyperparams(optax.adam)(0.1), None),
        (optax.adafactor(0.1, min_dim_size_to_factor=2), None),
    ],
    ids=["clip", "if_finite", "badam", "clip_layers", "clip_others", "inject", "adafactor"],
)  # fmt: skip
def test_what_looks_at_other_leaves_is_refused(tx, reason):
    params, state = start(tx)
    step = fused(tx)
    if reason is None:
        jax.eval_shape(step, params, state, batch(0))
        return
    with pytest.raises(ValueError, match=reason):
        jax.eval_shape(step, params, state, batch(0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p | {"layers": {"norm": jnp.ones((LAYERS, WIDTH))}}, "is a stack of matrices"),
        (lambda p: {name: x for name, x in p.items() if name != "layers"}, "a mapping with the layers under 'layers'"),
        (lambda p: list(p.values()), "must be a mapping"),
        (lambda p: p | {"layers": p["layers"] | {"up": jnp.ones((3, WIDTH, INNER))}}, "have 3, 4 layers"),
    ],
)
def test_parameters_without_layers_are_refused(change, reason):
    params = change(parameters())
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match=reason):
        jax.eval_shape(fused(tx), params, tx.init(params), batch(0))


def test_arguments_that_cannot_work_are_refused():
    tx = optax.sgd(0.1)
    params, state = start(tx)
    with pytest.raises(ValueError, match="keep_every is 3, but there are 4 layers. Give one of 1, 2, 4"):
        jax.eval_shape(fused(tx, keep_every=3), params, state, batch(0))
    with pytest.raises(ValueError, match="keep_every is 0"):
        fused(tx, keep_every=0)
    with pytest.raises(ValueError, match="the fourth argument"):
        fused(tx, clip=Clip(max_norm=1.0, by="previous"))(params, state, batch(0))
    with pytest.raises(ValueError, match="the fourth argument"):
        fused(tx)(params, state, batch(0), 1.0)
    with pytest.raises(ValueError, match="max_norm is -1"):
        Clip(max_norm=-1.0)
    with pytest.raises(ValueError, match="by is 'norm'"):
        Clip(max_norm=1.0, by="norm")
