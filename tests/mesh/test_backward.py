"""The update inside the backward pass on eight devices: what it sends, what it computes, and where
its state is.
"""

import collections
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import grass_optax
from grass_optax import Clip
from hlo.traffic import collectives
from models import LlamaConfig
from tests import tolerances
from tests.mesh.harness import VARIANTS, abstract, assert_near, mesh_of
from tests.util import METHODS, long_but, stacked_dimensions
from train.config.run import OptimizerFlags
from train.config.schedule import ScheduleFlags
from train.program.program import Program, make_program
from train.program.sharding import make_mesh, place_batch
from train.program.task import LanguageModel, Rows

STEPS = 5

# --- the step of the library ----------------------------------------------------------------------

LAYERS, WIDTH, INNER, ROWS = 5, 48, 80, 16
SHAPES = {"norm": (LAYERS, WIDTH), "up": (LAYERS, WIDTH, INNER), "down": (LAYERS, INNER, WIDTH)}
STACK = LAYERS * WIDTH * INNER
loss = grass_optax.ScannedLoss(
    embed=lambda w, batch: (batch @ w["in"], None),
    block=lambda layer, x, _: x + jnp.tanh((x * layer["norm"][None]) @ layer["up"]) @ layer["down"],
    head=lambda w, x, batch: jnp.mean((x @ w["out"] - batch) ** 2),
)


def parameters(dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    layers = {name: jnp.asarray(0.2 * rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}
    others = {"in": (8, WIDTH), "out": (WIDTH, 8)}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in others.items()} | {"layers": layers}


def batch(t: int, dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(t).normal(size=(ROWS, 8)), dtype)


def specs(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """FSDP along the smaller side, as bases need it, and features over `tensor` if there is one."""
    tensor = "tensor" if "tensor" in mesh.axis_names else None
    layers = {"norm": P(), "up": P(None, "fsdp", tensor), "down": P(None, tensor, "fsdp")}
    return {"in": P(None, "fsdp"), "out": P("fsdp"), "layers": layers}


def dimensions(params: Any) -> Any:
    """Only the kernels of the layers are matrices."""
    return jax.tree.map(lambda x: stacked_dimensions(x) if x.ndim == 3 else None, params)


def transformation(name: str, options: dict[str, Any]) -> Any:
    # Its interval is the inverse of a step size, and a large step magnifies the rounding of sums.
    gap = 200 if name == "online_subspace_descent" else 2
    needs = METHODS[name].options(4, gap) | dict.fromkeys(METHODS[name].needs, 8)
    return METHODS[name].alias(1e-3, weight_dimension_numbers=dimensions, **(needs | options))


class OnAMesh:
    """A compiled step on a mesh, with what goes in and out."""

    def __init__(self, name: str, options: dict[str, Any], mesh_name: str, dtype: str, is_free: bool = False) -> None:
        """With `is_free`, the compiler chooses the shardings of the state that comes out."""
        self.tx, self.params, mesh = transformation(name, options), parameters(dtype), mesh_of(mesh_name)
        self.state = jax.jit(self.tx.init)(self.params)
        self.shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(mesh))
        self.places = grass_optax.state_shardings(self.tx, self.params, self.shardings)
        self.rows = NamedSharding(mesh, P("fsdp"))
        self.step = grass_optax.update_in_backward(loss, self.tx, clip=Clip(max_norm=0.5))
        out = (self.shardings, None if is_free else self.places, None)
        self.compiled = (
            jax.jit(self.step, donate_argnums=(0, 1), out_shardings=out)
            .lower(
                abstract(self.params, self.shardings),
                abstract(self.state, self.places),
                jax.ShapeDtypeStruct((ROWS, 8), dtype, sharding=self.rows),
            )
            .compile()
        )


every_variant = functools.partial(
    pytest.mark.parametrize,
    ("name", "options", "mesh_name"),
    ids=lambda x: "-".join(map(str, x)) or "_" if isinstance(x, dict) else x,
)
CASES = [(name, options, mesh) for name, options in VARIANTS for mesh in ("8", "4x2") if "nu_dtype" not in options]


@every_variant(long_but([("grassjump", {}, "4x2")], CASES))
def test_layers_are_sent_one_at_a_time(name: str, options: dict[str, Any], mesh_name: str) -> None:
    """No stack is copied, and numbers are those of one device."""
    with jax.enable_x64(True):  # a direction from a gradient near 0 turns by a rounding
        on_mesh = OnAMesh(name, options, mesh_name, "float64")
        program = str(on_mesh.compiled.as_text())
        assert max(math.prod(one.shape) for one in collectives(program)) <= WIDTH * INNER
        assert re.findall(rf"= f64\[{LAYERS},\d+,\d+\]\S* copy\(.*", program) == []
        alone, (params, state) = jax.jit(on_mesh.step), (on_mesh.params, on_mesh.state)
        sharded = jax.device_put((params, state), (on_mesh.shardings, on_mesh.places))
        # The Adam that moves its bases turns a rounding of 1e-13 into 1e-10 at the second step.
        steps = 1 if name == "online_subspace_descent" else STEPS
        for t in range(steps):
            x = batch(t, "float64")
            params, state, report = alone(params, state, x)
            *sharded, sharded_report = on_mesh.compiled(*sharded, jax.device_put(x, on_mesh.rows))
        assert_near((*sharded, sharded_report), (params, state, report), tolerances.ORACLE64)


@pytest.mark.long
@every_variant(CASES)
def test_the_state_of_matrices_stays_where_it_is(name: str, options: dict[str, Any], mesh_name: str) -> None:
    """Even if the compiler may choose. That of vectors goes where it puts their gradients."""
    on_mesh = OnAMesh(name, options, mesh_name, "float32", is_free=True)
    trees = on_mesh.state, on_mesh.compiled.output_shardings[1], on_mesh.places
    of_matrices = [
        (place, expected) for x, place, expected in zip(*map(jax.tree.leaves, trees), strict=True) if x.ndim > 2
    ]
    assert of_matrices
    assert all(place == expected for place, expected in of_matrices)


# --- the step of the trainer ----------------------------------------------------------------------

NETWORK = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_heads=4, num_layers=4)
TASK = LanguageModel(network=NETWORK, batch_size=8, seq_len=8)
SMALLEST_STACK = 4 * 32 * 32  # more than the embedding, the head, or an activation (B, T, F) of all devices


def program_of(mesh: str, optimizer: str, **flags: Any) -> Program:
    config = OptimizerFlags(optimizer=optimizer, rank=4, update_proj_gap=2, learning_rate=1e-3, **flags)
    return make_program(make_mesh(mesh, TASK.batch_size), TASK, config, ScheduleFlags(steps=8, warmup=2), 0)


def rows(step: int, start: int, stop: int) -> Rows:
    return Rows(np.random.default_rng(step).integers(0, 64, (8, 9)).astype(np.int32)[start:stop])


def losses(program: Program) -> list[float]:
    state, found = program.draw_state(), []
    for step in range(STEPS):
        state, report = program.train_step(state, place_batch(program.batch, functools.partial(rows, step)))
        found.append(float(report.loss))
    for x, like in zip(jax.tree.leaves(state), jax.tree.leaves(program.state), strict=True):
        assert x.sharding.is_equivalent_to(like.sharding, x.ndim)
    return found


def test_the_trainer_gathers_one_layer_at_a_time_in_both_passes() -> None:
    """And, as nothing else needs whole weights, no more often."""
    program = program_of("fsdp=8", "adamw", clip=0.0, update_in_backward=True)
    compiled = program.train_step.lower(program.state, program.batch).compile()
    gathers = collections.Counter[tuple[int, ...]]()
    for one in collectives(str(compiled.as_text())):
        assert math.prod(one.shape) < SMALLEST_STACK
        if one.kind == "all-gather" and one.dtype == "f32":
            gathers[one.shape] += one.times
    assert gathers == {(32, 32): 2 * 4 * 4, (32, 48): 2 * 2 * 4, (48, 32): 2 * 4, (32, 64): 1}


@pytest.mark.long
@pytest.mark.parametrize("flags", [{}, {"clip_by": "previous"}, {"clip_by": "layer", "keep_every": 2}], ids=str)
@pytest.mark.parametrize("optimizer", ["grassjump", "adamw"])
@pytest.mark.parametrize("mesh", ["fsdp=8", "data=2,fsdp=2,tensor=2"])
def test_losses_of_the_trainer_are_those_of_one_device(mesh: str, optimizer: str, flags: dict[str, Any]) -> None:
    program = program_of(mesh, optimizer, update_in_backward=True, **flags)
    compiled = program.train_step.lower(program.state, program.batch).compile()
    assert max(math.prod(one.shape) for one in collectives(str(compiled.as_text()))) < SMALLEST_STACK
    expected = losses(program_of("", optimizer, update_in_backward=True, **flags))
    np.testing.assert_allclose(losses(program), expected, rtol=0, atol=1e-5)
    assert len(set(expected)) == STEPS
