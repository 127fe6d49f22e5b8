"""The sharding of the arrays of a run: the only file that knows the axes of a mesh.

A mesh has three axes. `data` replicates the model and shards the batch; `fsdp` shards the batch and
every matrix; `tensor` shards heads, intermediate features and the vocabulary. `LOGICAL` names the
axes of each parameter, `TENSOR_SHARDS` and `_axes` map them to the mesh; the sharding of the
optimizer state follows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.blocks import Placement
from train.config.run import UserError
from train.program.frozen import Pattern, parted
from train.program.optimizer import opt_state_shardings
from train.program.step import TrainState
from train.program.task import Batch, Params

AXES = DATA, FSDP, TENSOR = ("data", "fsdp", "tensor")
TENSOR_SHARDS = ("heads", "intermediate", "vocabulary")
# The axes of a parameter, by the end of its path. Norms and biases are small and replicated.
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


def make_mesh(spec: str, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh that --mesh specifies, over all devices; a mesh of one device if it is empty.

    All axes are Auto: JAX plans the communication from the shardings of parameters and batches.
    """
    if not spec and jax.process_count() > 1:
        raise UserError(
            f"--distributed has {jax.device_count()} devices in {jax.process_count()} processes, but no --mesh to "
            "arrange them in: pass one, for example fsdp=-1."
        )
    devices = jax.devices() if devices is None else devices
    sizes = dict.fromkeys(AXES, 1) | _parsed(spec)
    count = len(devices) if spec else 1
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {axis: count // known if size == -1 else size for axis, size in sizes.items()}
    if math.prod(sizes.values()) != count:
        raise UserError(
            f"--mesh {spec} needs {known} devices or a multiple, and there are {count}: choose sizes whose product is "
            f"{count}, or -1 for one of them."
        )
    shards = sizes[DATA] * sizes[FSDP]
    if batch_size % shards:
        raise UserError(
            f"--mesh {spec} shards a batch over data x fsdp = {shards} devices, but --batch-size is {batch_size}: "
            f"choose a multiple of {shards}."
        )
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:count])


def check_micro_batches(mesh: Mesh, batch_size: int, count: int) -> None:
    """Refuse micro-batches that cannot be sharded over the mesh."""
    shards = mesh.shape[DATA] * mesh.shape[FSDP]
    if batch_size % (count * shards):
        raise UserError(
            f"--accumulate {count} makes micro-batches of {batch_size / count:g} windows, which are sharded over "
            f"{shards} devices (data x fsdp): choose a --batch-size that is a multiple of {count * shards}."
        )


def rows_of_a_device(mesh: Mesh, batch_size: int, count: int) -> int:
    """Return the rows of a micro-batch that a device holds, 1 at least."""
    return max(batch_size // (count * mesh.shape[DATA] * mesh.shape[FSDP]), 1)


def mesh_sizes(spec: str) -> dict[str, int]:
    """Return the size of every axis of a mesh whose devices are not present, so that -1 has no
    meaning; one device if it is empty.
    """
    sizes = _parsed(spec)
    if -1 in sizes.values():
        raise UserError(
            f"--mesh {spec!r} does not say how many devices to plan for: give all sizes, for example fsdp=64 or "
            "data=8,fsdp=64; leave it out for one device."
        )
    return dict.fromkeys(AXES, 1) | sizes


def _parsed(spec: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in spec.split(",") if spec else ():
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or axis in sizes or not (size == "-1" or (size.isdecimal() and int(size) > 0)):
            raise UserError(
                f"--mesh {spec} has the invalid part {part.strip()!r}: give a size for any of {', '.join(AXES)}, each "
                "once, for example data=2,fsdp=4; -1 for all remaining devices."
            )
        sizes[axis] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise UserError(f"--mesh {spec} has more than one size of -1: use -1 once.")
    return sizes


def placed(mesh: Mesh, tx: optax.GradientTransformation, abstract: TrainState, frozen: Pattern = ()) -> TrainState:
    """Return the shapes of a state, with the sharding of each array."""
    params = param_shardings(mesh, abstract.params)
    trained = [parted(tree, frozen)[0] for tree in (abstract.params, params)]
    shardings: Any = TrainState(replicated(mesh), params, opt_state_shardings(tx, *trained))  # type: ignore[arg-type]
    state: TrainState = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    return state


def param_shardings(mesh: Mesh, params: Params) -> Any:
    """Return the sharding of each parameter."""
    return jax.tree.map_with_path(lambda path, x: _param_sharding(mesh, path, x), params)


def _param_sharding(mesh: Mesh, path: Any, x: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    logical = next((axes for end, axes in LOGICAL.items() if name.endswith(end)), ())
    axes = _axes(logical, x.shape)
    for meaning, names, size in zip(logical, axes, x.shape, strict=False):
        if size % math.prod(mesh.shape[axis] for axis in names):
            over = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in names)
            raise UserError(
                f"--mesh shards the {meaning} axis of {name}, of size {size}, over {over}: "
                f"choose sizes that divide {size}."
            )
    return NamedSharding(mesh, PartitionSpec(*(names[0] if len(names) == 1 else names or None for names in axes)))


def _axes(logical: tuple[str, ...], shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Return the mesh axes of each axis of a parameter.

    `fsdp` shards the side of a kernel that the basis of its subspace spans, or every device would
    hold the whole basis (docs/guides/sharding.md): the smaller side, and the input side of a square
    kernel. It shards the hidden axis of embeddings and head.
    """
    if not logical:
        return []
    sides = (len(shape) - 2, len(shape) - 1)
    side = min(sides, key=lambda i: shape[i]) if logical[0] == "layer" else logical.index("hidden")
    return [(TENSOR,) * (meaning in TENSOR_SHARDS) + (FSDP,) * (axis == side) for axis, meaning in enumerate(logical)]


def maps_stacks(mesh: Mesh, planned: bool) -> bool:
    """Whether the optimizer multiplies the layers of a stack one after the other.

    It does so where a device holds a shard of each matrix, but not in programs that run on CPU
    devices: these start the sums of independent loops in different orders and then wait for each
    other forever (docs/guides/sharding.md).
    """
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return mesh.shape[FSDP] * mesh.shape[TENSOR] > 1 and (planned or not is_cpu)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of each array of a batch."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def place_batch(abstract: Batch, rows: Callable[[int, int], Batch]) -> Batch:
    """Return the batch whose rows [start, stop) are `rows(start, stop)`; each process reads only
    the rows of its own devices.
    """
    read = functools.cache(lambda start, stop: jax.tree.leaves(rows(start, stop)))  # devices may hold the same rows
    shapes, structure = jax.tree.flatten(abstract)

    def placed(leaf: int, x: jax.ShapeDtypeStruct) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(x.shape[0])
            array: np.ndarray = read(start, stop)[leaf]
            return array

        return jax.make_array_from_callback(x.shape, x.sharding, part)

    return jax.tree.unflatten(structure, [placed(leaf, x) for leaf, x in enumerate(shapes)])


def placement(mesh: Mesh) -> Placement:
    """Return the sharding constraints of activations.

    Each device holds the residual stream (B, T, D) and the logits (B, T, V) of its own windows, and
    weights are gathered layer by layer. Left alone, the compiler shards the hidden dimension: then
    every device works on the whole batch, and nearly every product is followed by an all-reduce
    that grows with the batch. Embeddings are looked up where their columns are, then exchanged over
    `fsdp`; the compiler alone would gather those of the whole batch if it is also sharded over
    `data`. Heads are sharded over `tensor` only, unlike the rows of `o`. A loss in chunks gathers
    the head once over `fsdp`, and each device sums its own part of the gradient of the head.
    """

    def at(*axes: Any) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, PartitionSpec(*axes)))

    free = PartitionSpec.UNCONSTRAINED
    batch = (DATA, FSDP)

    def by_group(x: jax.Array) -> jax.Array:
        return at(batch, *(free,) * (x.ndim - 1))(x)

    return Placement(
        embedded=at(DATA, None, FSDP),
        stream=at(batch, free, free),
        heads=at(batch, free, TENSOR),
        head=at(None, TENSOR),
        by_group=by_group,
        groups=mesh.shape[DATA] * mesh.shape[FSDP],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
