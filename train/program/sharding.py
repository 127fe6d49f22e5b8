"""Where the arrays of a run lie: the only file that knows the axes of a mesh.

A mesh has three axes. `data` holds copies of everything and shards the batch; `fsdp` shards the
batch too, and every matrix; `tensor` shards heads, intermediate features and the vocabulary. What
each axis of a parameter means is said by `LOGICAL`, where it lies by `TENSOR_SHARDS` and `_axes`;
the optimizer's state follows from that.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.llama import Placement
from train.config.run import UserError
from train.program.optimizer import opt_state_shardings
from train.program.step import Params, TrainState

AXES = DATA, FSDP, TENSOR = ("data", "fsdp", "tensor")
TENSOR_SHARDS = ("heads", "intermediate", "vocabulary")
# The axes of a parameter by the end of its path. Norms are small, and whole everywhere.
LOGICAL = {
    "embed/embedding": ("vocabulary", "hidden"),
    "q/kernel": ("layer", "hidden", "heads"),
    "k/kernel": ("layer", "hidden", "heads"),
    "v/kernel": ("layer", "hidden", "heads"),
    "o/kernel": ("layer", "heads", "hidden"),
    "gate/kernel": ("layer", "hidden", "intermediate"),
    "up/kernel": ("layer", "hidden", "intermediate"),
    "down/kernel": ("layer", "intermediate", "hidden"),
    "lm_head/kernel": ("hidden", "vocabulary"),
}


def make_mesh(given: str, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh that --mesh asks for, over all devices; of one device if it is not given.

    All axes are Auto: JAX decides what is sent where, from where parameters and batches lie.
    """
    if not given and jax.process_count() > 1:
        raise UserError(
            f"--distributed has {jax.device_count()} devices in {jax.process_count()} processes, and --mesh does not "
            "say what they are for: give it, as fsdp=-1."
        )
    devices = jax.devices() if devices is None else devices
    sizes = dict.fromkeys(AXES, 1) | _parsed(given)
    count = len(devices) if given else 1
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {axis: count // known if size == -1 else size for axis, size in sizes.items()}
    if math.prod(sizes.values()) != count:
        raise UserError(
            f"--mesh {given} is for {known} devices or a multiple, and there are {count}: give sizes whose product is "
            "that, or -1 for one of them."
        )
    shards = sizes[DATA] * sizes[FSDP]
    if batch_size % shards:
        raise UserError(
            f"--mesh {given} shards a batch over data x fsdp = {shards} devices, and --batch-size is {batch_size}: "
            "give a multiple."
        )
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:count])


def mesh_sizes(given: str) -> dict[str, int]:
    """Return the size of every axis of a mesh whose devices need not be here, so that -1 would say
    nothing.
    """
    sizes = _parsed(given)
    if not sizes or -1 in sizes.values():
        raise UserError(
            f"--mesh {given!r} does not say for how many devices to plan: give all sizes, as in fsdp=64 or "
            "data=8,fsdp=64; data=1 for one device."
        )
    return dict.fromkeys(AXES, 1) | sizes


def _parsed(given: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in given.split(",") if given else ():
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or axis in sizes or not (size == "-1" or (size.isdecimal() and int(size) > 0)):
            raise UserError(
                f"--mesh {given} has the part {part.strip()!r}: give sizes for some of {', '.join(AXES)}, each once, "
                "as in data=2,fsdp=4; -1 for what is left."
            )
        sizes[axis] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise UserError(f"--mesh {given} leaves more than one size open: give -1 once.")
    return sizes


def placed(mesh: Mesh, tx: optax.GradientTransformation, abstract: TrainState) -> TrainState:
    """Return the shapes of a state with the sharding of each array."""
    params = param_shardings(mesh, abstract.params)
    shardings: Any = TrainState(replicated(mesh), params, opt_state_shardings(tx, abstract.params, params))  # type: ignore[arg-type]
    state: TrainState = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    return state


def param_shardings(mesh: Mesh, params: Params) -> Any:
    """Return where each parameter lies."""
    return jax.tree.map_with_path(lambda path, x: _param_sharding(mesh, path, x), params)


def _param_sharding(mesh: Mesh, path: Any, x: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    logical = next((axes for end, axes in LOGICAL.items() if name.endswith(end)), ())
    axes = _axes(logical, x.shape)
    for meaning, names, size in zip(logical, axes, x.shape, strict=False):
        if size % math.prod(mesh.shape[axis] for axis in names):
            over = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in names)
            raise UserError(
                f"--mesh shards the {meaning} axis of {name}, {size} long, over {over}: give sizes that divide it."
            )
    return NamedSharding(mesh, PartitionSpec(*(names[0] if len(names) == 1 else names or None for names in axes)))


def _axes(logical: tuple[str, ...], shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Return the mesh axes of each axis of a parameter.

    `fsdp` lies on the side of a kernel where the basis of its subspace is, the smaller one and the
    input of a square one, or the basis would be whole on every device (docs/sharding.md); of
    embeddings and head on the hidden dimension.
    """
    if not logical:
        return []
    sides = (len(shape) - 2, len(shape) - 1)
    side = min(sides, key=lambda i: shape[i]) if logical[0] == "layer" else logical.index("hidden")
    return [(TENSOR,) * (meaning in TENSOR_SHARDS) + (FSDP,) * (axis == side) for axis, meaning in enumerate(logical)]


def maps_stacks(mesh: Mesh, planned: bool) -> bool:
    """Whether the optimizer multiplies one layer after the other: where a device holds a part of
    each matrix.

    Not in what runs on CPU devices: they begin the sums of independent loops each in an order of
      its own, and then wait for each other for ever (docs/sharding.md).
    """
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return mesh.shape[FSDP] * mesh.shape[TENSOR] > 1 and (planned or not is_cpu)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return where a batch (B, T + 1) lies."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def place_batch(windows: jax.ShapeDtypeStruct, rows: Callable[[int, int], np.ndarray]) -> jax.Array:
    """Return the batch of which each device asks for its `rows` [start, stop): a process reads
    those of its own.
    """
    read = functools.cache(rows)  # devices that differ in `tensor` alone ask for the same

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(windows.shape[0])
        return read(start, stop)

    return jax.make_array_from_callback(windows.shape, windows.sharding, part)


def placement(mesh: Mesh) -> Placement:
    """Return where activations lie.

    Each device has the residual stream (B, T, D) and the logits (B, T, V) of its own windows, and
    weights are gathered for them layer by layer. Left to itself, the compiler shards the hidden
    dimension: every device then works on the whole batch, and all of them sum the results of nearly
    every product, which grow with the batch. Embeddings are looked up where their columns are, and
    then change places over `fsdp`; the compiler alone would gather those of the whole batch, if it
    is sharded over `data` too. Heads lie on `tensor` alone, and not as the rows of `o` do.
    """

    def at(*axes: Any) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, PartitionSpec(*axes)))

    free = PartitionSpec.UNCONSTRAINED
    batch = (DATA, FSDP)
    return Placement(embedded=at(DATA, None, FSDP), stream=at(batch, free, free), heads=at(batch, free, TENSOR))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())
