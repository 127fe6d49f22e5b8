"""What do the devices of a mesh send each other for an update?

    python -m benchmarks.communication --size 60m

Bytes that each device sends, by the kind of collective, read from the compiled update of sharded
gradients on 1, 2, 4 and 8 devices; nothing runs. `train.collectives` counts them, and says how.
"refresh" is what a step sends besides when the bases move. On CPU devices, as here, the compiler
makes an all-reduce and a slice of what is a reduce-scatter, half of it, on an accelerator. The
communication of the gradients themselves is that of any optimizer, and not in it.
"""

import argparse
from collections import Counter
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import grass_optax
from benchmarks import flags, measure
from benchmarks.contestants import JAX_CONTESTANTS
from benchmarks.shapes import SIZES, Problem, problem
from hlo.traffic import KINDS, collectives
from train.system.devices import host_devices

METHODS = ("adamw", "grassjump", "grasswalk")
DEVICES = (1, 2, 4, 8)
LAYOUTS = ("fsdp", "fsdp x tensor")


def spec(name: str, layout: str) -> PartitionSpec:
    """Of a stack (layers, input, output): the width of the model over fsdp, the other side over
    tensor.
    """
    width_is_last = name in ("o", "down")
    sides = ("fsdp", "tensor" if layout == "fsdp x tensor" else None)
    return PartitionSpec(None, *(reversed(sides) if width_is_last else sides))


def mesh_of(devices: int, layout: str) -> jax.sharding.Mesh:
    """All devices on fsdp, or half of them where there is a tensor axis of two."""
    tensor = 2 if layout == "fsdp x tensor" and devices > 1 else 1
    shape, axes = ((devices // tensor, tensor), ("fsdp", "tensor"))
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])


def program(name: str, given: Problem, devices: int, layout: str) -> str:
    """The compiled update of one contestant."""
    mesh, tx = mesh_of(devices, layout), JAX_CONTESTANTS[name](given)
    shardings = {leaf: NamedSharding(mesh, spec(leaf, layout)) for leaf in given.shapes}
    states = grass_optax.state_shardings(tx, given.abstract, shardings)

    def placed(tree: Any, where: Any) -> Any:
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)

    params, state = placed(given.abstract, shardings), placed(jax.eval_shape(tx.init, given.abstract), states)
    update = jax.jit(tx.update, out_shardings=(shardings, states))
    return str(update.lower(params, state, params).compile().as_text())


def row(name: str, given: Problem, devices: int, layout: str) -> dict[str, Any]:
    """What one contestant sends: in every step, and beside that at a refresh."""
    every, refresh = Counter[str](), Counter[str]()
    for one in collectives(program(name, given, devices, layout)):
        (refresh if one.at_refresh else every)[one.kind] += one.bytes
    return {"name": name, "devices": devices, "every_step": dict(every), "refresh": dict(refresh)}


def table(rows: list[dict[str, Any]], gradient_bytes: int) -> str:
    """Kilobytes by kind; the total also over the bytes of one gradient."""
    kinds = [kind for kind in KINDS if any(r["every_step"].get(kind) for r in rows)]
    header = ["", "devices", *(f"{kind}, kB" for kind in kinds), "of a gradient", "refresh, kB"]
    lines = []
    for r in rows:
        every = r["every_step"]
        share = f"{sum(every.values()) / gradient_bytes:.4f}"
        cells = [f"{every.get(kind, 0) / 1e3:.1f}" for kind in kinds]
        lines.append([r["name"], str(r["devices"]), *cells, share, f"{sum(r['refresh'].values()) / 1e3:.1f}"])
    return measure.table(header, lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("communication", __doc__)
    result.add_argument("--size", choices=SIZES, default="60m")
    result.add_argument("--layers", type=int, help="only so many layers of it")
    result.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    result.add_argument("--devices", nargs="+", type=int, choices=DEVICES, default=list(DEVICES))
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile, count, print, write, and return what was written."""
    args = parser().parse_args(arguments)
    host_devices(max(args.devices))
    given = problem(args.size, stacked=True, gap=10, layers=args.layers)
    tables = []
    for layout in args.layouts:
        rows = [row(name, given, devices, layout) for name in args.methods for devices in args.devices]
        tables.append({"size": args.size, "layout": layout, "rows": rows})
        print(f"\n{args.size}, {layout}: sent by each device\n{table(rows, given.gradient_bytes)}", flush=True)
    measure.write_json(args.json, args, measure.machine(), tables)
    return tables


if __name__ == "__main__":
    main()
