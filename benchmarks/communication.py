"""How much do the devices of a mesh send each other for an update?

    python -m benchmarks.communication --size 60m

Bytes sent by each device, by kind of collective, read from the compiled update of sharded gradients
on 1, 2, 4 and 8 devices (see `hlo.traffic`); nothing is run. "refresh" is the additional traffic
of a step in which the bases move. CPU compilers write an all-reduce and a slice where an
accelerator uses a reduce-scatter, which sends half. The communication of the gradients themselves
is the same for every optimizer, and not included.
"""

import argparse
from collections import Counter
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import grass_optax
from benchmarks import flags, measure
from benchmarks.contestants import JAX_CONTESTANTS
from benchmarks.shapes import SIZES, Problem, make_problem
from hlo.traffic import KINDS, collectives
from train.system.devices import host_devices

METHODS = ("adamw", "grassjump", "grasswalk")
DEVICES = (1, 2, 4, 8)
LAYOUTS = ("fsdp", "fsdp x tensor")


def spec(name: str, layout: str) -> PartitionSpec:
    """Sharding of a stack (layers, input, output): the model width over fsdp, the other side over
    tensor.
    """
    width_is_last = name in ("o", "down")
    sides = ("fsdp", "tensor" if layout == "fsdp x tensor" else None)
    return PartitionSpec(None, *(reversed(sides) if width_is_last else sides))


def mesh_of(devices: int, layout: str) -> jax.sharding.Mesh:
    """All devices on fsdp; half of them if there is a tensor axis of size 2."""
    tensor = 2 if layout == "fsdp x tensor" and devices > 1 else 1
    shape, axes = ((devices // tensor, tensor), ("fsdp", "tensor"))
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])


def compiled_update(name: str, problem: Problem, devices: int, layout: str) -> str:
    """The HLO text of the compiled update of one contestant."""
    mesh, tx = mesh_of(devices, layout), JAX_CONTESTANTS[name](problem)
    shardings = {leaf: NamedSharding(mesh, spec(leaf, layout)) for leaf in problem.shapes}
    states = grass_optax.state_shardings(tx, problem.abstract, shardings)

    def placed(tree: Any, specs: Any) -> Any:
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, specs)

    params, state = placed(problem.abstract, shardings), placed(jax.eval_shape(tx.init, problem.abstract), states)
    update = jax.jit(tx.update, out_shardings=(shardings, states))
    return str(update.lower(params, state, params).compile().as_text())


def row(name: str, problem: Problem, devices: int, layout: str) -> dict[str, Any]:
    """Traffic of one contestant: in every step, and additionally at a refresh."""
    every, refresh = Counter[str](), Counter[str]()
    for sent in collectives(compiled_update(name, problem, devices, layout)):
        (refresh if sent.conditional else every)[sent.kind] += sent.bytes
    return {"name": name, "devices": devices, "every_step": dict(every), "refresh": dict(refresh)}


def table(rows: list[dict[str, Any]], gradient_bytes: int) -> str:
    """Kilobytes by kind, and the total as a fraction of one gradient."""
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
    result.add_argument("--layers", type=int, help="use only this many layers")
    result.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    result.add_argument("--devices", nargs="+", type=int, choices=DEVICES, default=list(DEVICES))
    result.add_argument("--methods", nargs="+", choices=JAX_CONTESTANTS, metavar="METHOD", default=list(METHODS))
    return result


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile, count, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    host_devices(max(args.devices))
    problem = make_problem(args.size, stacked=True, gap=10, layers=args.layers)
    tables = []
    for layout in args.layouts:
        rows = [row(name, problem, devices, layout) for name in args.methods for devices in args.devices]
        tables.append({"size": args.size, "layout": layout, "rows": rows})
        print(f"\n{args.size}, {layout}: sent by each device\n{table(rows, problem.gradient_bytes)}", flush=True)
    measure.write_json(args.json, args, measure.machine(), tables)
    return tables


if __name__ == "__main__":
    main()
