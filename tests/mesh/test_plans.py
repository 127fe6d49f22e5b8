"""A plan beside the step that runs, on the same mesh."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from hlo.traffic import Sent
from train.__main__ import parse
from train.config.run import Pretrain
from train.plan.config import Plan, run_of_plan
from train.plan.cost import planned_program, planned_step
from train.program.program import make_program, pretraining
from train.program.sharding import DATA, FSDP, make_mesh, mesh_sizes

LAYERS, VOCABULARY, HIDDEN = 4, 2048, 128  # of tiny
KERNELS = 4 * LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * 352)  # bytes
BATCH, SEQUENCE = 16, 24


def planned(*words: str, mesh: str, batch: int = BATCH) -> tuple[Pretrain, Mesh]:
    given = ("--model", "tiny", "--batch-size", str(batch), "--seq-len", str(SEQUENCE), "--mesh", mesh)
    config = parse(["plan", *given, *words])
    assert isinstance(config, Plan)
    sizes = mesh_sizes(mesh)
    run = run_of_plan(config, sizes[DATA] * sizes[FSDP])
    return run, make_mesh(mesh, run.data.batch_size)


def windows(shape: tuple[int, ...]) -> int:
    """Of how many windows an array is: (B, T, ...) or (B T, ...); 0 if of none. No weight has a
    size of a multiple of SEQUENCE.
    """
    if shape and shape[0] % SEQUENCE == 0:
        return shape[0] // SEQUENCE
    return shape[0] if shape[1:2] == (SEQUENCE,) else 0


def held(tree: Any) -> list[int]:
    """Bytes of each device."""
    bytes_of: Counter[int] = Counter()
    for x in jax.tree.leaves(tree):
        for shard in x.addressable_shards:
            bytes_of[shard.device.id] += shard.data.nbytes
    return list(bytes_of.values())


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ("data=2,fsdp=2,tensor=2", ("--optimizer", "grassjump", "--remat", "block")),
        pytest.param("fsdp=8", ("--optimizer", "adamw"), marks=pytest.mark.long),
        pytest.param("fsdp=8", ("--optimizer", "grasswalk", "--mu-dtype", "float8"), marks=pytest.mark.long),
    ],
)
def test_what_is_planned_is_what_a_step_holds(mesh: str, words: tuple[str, ...]) -> None:
    run, devices = planned(*words, mesh=mesh)
    found = planned_step(run, planned_program(run, devices))
    # Planned programs have other loops, which do not run on a CPU.
    program = make_program(devices, pretraining(run.model, run.data, devices), run.optimizer, run.schedule, 0)
    batch = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), program.batch)
    state = program.draw_state()
    step = program.train_step.lower(state, batch).compile()
    for _ in range(2):
        state, report = step(state, batch)
    assert jnp.isfinite(report.loss)
    assert held(state.params) == [found["bytes"]["parameters"]] * 8
    assert held((state.opt_state, state.step)) == [found["bytes"]["optimizer_state"]] * 8
    assert held(batch) == [found["bytes"]["batch"]] * 8
    # What goes into the program is what was counted from shapes and shardings.
    counted = sum(found["bytes"][name] for name in ("parameters", "optimizer_state", "batch"))
    assert found["compiled"]["argument"] == counted


def test_weights_are_gathered_and_activations_are_not_summed() -> None:
    """Of each of four layers: seven kernels, for the forward pass and again for the backward pass,
    and their gradients are summed; (k - 1)/k of an array for a gather, twice that for a sum.

    Of the (B, T) windows, of all devices or of one, only tokens are gathered, and embeddings change
    places.
    """
    run, devices = planned("--optimizer", "adamw", mesh="fsdp=8")
    sent = [Sent(**one) for one in planned_step(run, planned_program(run, devices))["sent"]]
    kernels = [one for one in sent if one.dtype == "f32" and len(one.shape) == 2 and max(one.shape) < VOCABULARY]
    gathers, sums = ([one for one in kernels if one.kind == kind] for kind in ("all-gather", "all-reduce"))
    assert sum(one.times for one in gathers) == 2 * 7 * LAYERS
    assert sum(one.bytes for one in gathers) == sum(one.bytes for one in sums) == 2 * KERNELS * 7 / 8
    of_windows = [one for one in sent if windows(one.shape) in (BATCH, BATCH // 8) and one.bytes > 1000]
    assert {(one.kind, one.dtype) for one in of_windows} == {
        ("all-gather", "s32"), ("all-to-all", "f32")
    }  # fmt: skip


@pytest.mark.parametrize("mesh", ["data=2,fsdp=2,tensor=2", pytest.param("fsdp=4,tensor=2", marks=pytest.mark.long)])
def test_no_activation_is_gathered_beside_tensor_parallelism(mesh: str) -> None:
    """With one window for each device of data x fsdp, where a compiler left alone gathers
    embeddings and heads of all windows. Over `tensor` a device may gather those of its own.
    """
    run, devices = planned("--optimizer", "adamw", "--remat", "block", mesh=mesh, batch=4)
    sent = [Sent(**one) for one in planned_step(run, planned_program(run, devices))["sent"]]
    gathers = [one.shape for one in sent if one.kind == "all-gather" and one.dtype == "f32"]
    assert {windows(shape) for shape in gathers} <= {0, 1}
    hidden = [one for one in sent if one.kind == "all-reduce" and one.shape[-1:] == (HIDDEN,)]  # of heads and features
    assert [one for one in hidden if windows(one.shape) == 1]
