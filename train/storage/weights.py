"""The weights in a checkpoint of a run or of an import, without the rest of its state.

They are floats, however the run stored them.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.config.run import UserError
from train.program.narrow_weights import as_floats, shapes_in_8_bits
from train.storage.checkpoint import ITEM, newest_intact, steps_in
from train.storage.checksums import SealedPath, damage

Params = Any
# Of imported weights: the bytes that are encoded at once, and those of a file, which is in memory
# until it is written. `python -m benchmarks.weights` measures what they take.
CHUNK_BYTES, FILE_BYTES, MOST_FILES = 4 * 10**6, 16 * 10**6, 256


def save_params(folder: Path, params: Params) -> None:
    """Write weights, arrays of NumPy, as a first checkpoint that has nothing else.

    Beside the weights this takes some 0.1 GB. By default Orbax would copy all arrays of NumPy, as
    they might change while they are written, encode each as a whole, and write it as one file.
    """
    arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    of_jax = ocp.type_handlers.get_type_handler(jax.Array)  # without it Orbax warns
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays), (jax.Array, of_jax))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    item = {"params": params}
    arguments = ocp.args.PyTreeSave(
        item,
        save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), item),
        ocdbt_target_data_file_size=max(FILE_BYTES, sum(x.nbytes for x in jax.tree.leaves(params)) // MOST_FILES),
    )
    with ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(default=handler), temporary_path_class=SealedPath
    ) as checkpointer:
        checkpointer.save(folder.absolute() / "0", args=ocp.args.Composite(**{ITEM: arguments}))


def kept_step(folder: Path, step: int | None) -> int:
    """Return `step`, or the step of the newest intact checkpoint; damaged ones are reported.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.

    Raises:
      UserError: If there is no such checkpoint, or it is damaged.
    """
    steps = steps_in(folder) if folder.is_dir() else []
    if not steps:
        raise UserError(f"{folder} has no checkpoint: train or import a model first.")
    if step not in (None, *steps):
        raise UserError(f"{folder} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}.")
    if step is not None:
        if reason := damage(folder / str(step)):
            raise UserError(f"{folder / str(step)} is damaged ({reason}): use another step, or restore it.")
        return step
    intact, damaged = newest_intact(folder)
    if intact is None:
        raise UserError(
            f"{folder} has no intact checkpoint ({damaged[steps[-1]]}): restore one, or make the model again."
        )
    for name, reason in damaged.items():
        print(f"note: {folder / str(name)} is damaged ({reason}): step {intact} is used instead", file=sys.stderr)
    return intact


def restore_params(folder: Path, step: int | None, abstract: Params) -> Params:
    """Return the weights after `step` updates, or those of the newest checkpoint; nothing else of
    the state is read.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.
      abstract: Shapes, dtypes and shardings.

    Raises:
      UserError: If there is no such checkpoint.
    """
    step = kept_step(folder, step)
    with _reader() as reader:
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        if is_in_8_bits := _has_codes(folder / str(step)):
            abstract = shapes_in_8_bits(abstract)
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        params = _restored(reader, folder / str(step), abstract, arguments)
    return jax.jit(as_floats, out_shardings=shardings)(params) if is_in_8_bits else params


def restore_params_on_host(folder: Path, step: int | None, abstract: Params) -> Params:
    """Return the weights as arrays of NumPy, which no device holds.

    They are read one after the other, as each is in memory encoded, too, while it is decoded: Orbax
    would read all at once. The largest come first, when there is most room.

    Args:
      folder: Of the checkpoints.
      step: The number of updates; None for the newest.
      abstract: Shapes and dtypes.

    Raises:
      UserError: If there is no such checkpoint.
    """
    step = kept_step(folder, step)

    leaves, structure = jax.tree.flatten_with_path(abstract)
    arrays: dict[int, np.ndarray] = {}
    with _reader() as reader:
        is_in_8_bits = _has_codes(folder / str(step))
        for i in sorted(range(len(leaves)), key=lambda i: -leaves[i][1].size):
            path, leaf = leaves[i]
            item = _nested(path, leaf)
            item = shapes_in_8_bits(item) if is_in_8_bits else item
            arguments = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), item)
            part = _restored(reader, folder / str(step), item, arguments)
            if is_in_8_bits:
                with jax.default_device(_host()):
                    part = jax.tree.map(np.asarray, as_floats(part))
            (arrays[i],) = jax.tree.leaves(part)
    return jax.tree.unflatten(structure, [arrays[i] for i in range(len(leaves))])


def _host() -> jax.Device | None:
    """Return the CPU; None, for the default device, if JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _nested(path: tuple[Any, ...], value: Any) -> Params:
    """Return the dicts in which `value` has this path."""
    return functools.reduce(lambda inner, key: {key.key: inner}, reversed(path), value)


def _has_codes(checkpoint: Path) -> bool:
    """Whether the kernels of the layers are stored in 8 bits."""
    tree = ocp.PyTreeCheckpointHandler().metadata(checkpoint.absolute() / ITEM).tree
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree))
    return any(name.endswith("kernel/codes") for name in names)


def _restored(reader: ocp.Checkpointer, checkpoint: Path, params: Params, restore_args: Params) -> Params:
    """Return those parameters that `params` names."""
    arguments = ocp.args.PyTreeRestore(
        item={"params": params}, restore_args={"params": restore_args}, partial_restore=True
    )
    return reader.restore(checkpoint.absolute() / ITEM, args=arguments)["params"]


def _reader() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())  # the standard handler reads whole states only
