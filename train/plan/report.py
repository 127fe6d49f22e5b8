"""A plan as text."""

from typing import Any

SHOWN = 0.01  # of the bytes of a step, or of a refresh: collectives that send less are one line
ON_CPU = """\
CPU devices stand for those of the mesh. On an accelerator temporaries differ: other fusions, other schedules. The CPU's
compiler computes and sends bfloat16 as float32, and writes an all-reduce and a slice where others may have a
reduce-scatter, which sends half."""
UNKNOWN_TURNS = "At a refresh: once for each loop whose turns are not known when compiling, and every branch."


def text(found: dict[str, Any]) -> str:
    """Return what is printed of a plan."""
    parts = [_heading(found), _memory(found)]
    if found["sent"] is not None:
        parts += [_sent(found["sent"], at_refresh=False)]
        parts += [_sent(found["sent"], at_refresh=True)] if any(one["at_refresh"] for one in found["sent"]) else []
    if not found["topology"]:
        parts.append(ON_CPU)
    return "\n\n".join(parts)


def _heading(found: dict[str, Any]) -> str:
    given, mesh = found["flags"], found["mesh"]
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.items())
    where = f"{found['topology']} ({found['device']})" if found["topology"] else "CPU"
    return (
        f"{given['model']}, {found['parameters']:,} parameters, {given['optimizer']} at rank {given['rank']}, "
        f"products in {given['dtype']}, weights in {given['param_dtype']}{', remat' if given['remat'] else ''}\n"
        f"{axes}: {found['devices']} devices, {where}; compiled in {found['compile_seconds']:.0f} s\n"
        f"a batch of {given['batch_size']} windows of {given['seq_len']} tokens, "
        f"{given['batch_size'] / (mesh['data'] * mesh['fsdp']):g} for each device of data x fsdp"
    )


def _memory(found: dict[str, Any]) -> str:
    held, compiled = found["bytes"], found["compiled"]
    rows = [
        ("parameters", held["parameters"], "exact"),
        ("optimizer state", held["optimizer_state"], f"exact; adamw's would be {_mb(held['adamw_state'])}"),
        ("batch", held["batch"], "exact"),
    ]
    if compiled is None:
        return _table("each device holds, MB", rows) + f"\n\nDoes not fit. {found['does_not_fit']}"
    gradients = f"as the compiler plans them; gradients, {_mb(held['gradients'])}, are among them"
    rows.append(("temporaries", compiled["temp"], gradients))
    if compiled["generated_code"]:
        rows.append(("program", compiled["generated_code"], ""))
    rows.append(("total", compiled["total"], "arguments, results that are not in their place, temporaries, program"))
    if found["topology"]:  # a CPU's compiler does not count its temporaries there
        rows.append(("at most at one time", compiled["peak"], "as the compiler plans it, without the program"))
    return _table("each device holds, MB", rows)


def _table(title: str, rows: list[tuple[str, int, str]]) -> str:
    lines = [f"{name:<24}{_mb(size):>14}  {note}".rstrip() for name, size, note in rows]
    return "\n".join([title, *lines])


def _sent(all_sent: list[dict[str, Any]], *, at_refresh: bool) -> str:
    sent = [one for one in all_sent if one["at_refresh"] is at_refresh]
    total = sum(one["bytes"] for one in sent)
    shown = [one for one in sent if one["bytes"] >= SHOWN * total and one["bytes"]]
    title = "a refresh sends besides" if at_refresh else "each device sends in a step"
    lines = [f"{title:<48}{'devices':>9}{'times':>9}{'MB':>14}"]
    for one in shown:
        name = f"{one['kind']} {one['dtype']}[{','.join(map(str, one['shape']))}]"
        lines.append(f"{name:<48}{one['group_size']:>9}{one['times']:>9}{_mb(one['bytes']):>14}")
    if len(shown) < len(sent):
        rest = sum(one["times"] for one in sent) - sum(one["times"] for one in shown)
        size = total - sum(one["bytes"] for one in shown)
        lines.append(f"{f'{len(sent) - len(shown)} other kinds':<48}{'':>9}{rest:>9}{_mb(size):>14}")
    lines.append(f"{'total':<48}{'':>9}{'':>9}{_mb(total):>14}")
    return "\n".join([*lines, *([UNKNOWN_TURNS] if at_refresh else [])])


def _mb(size: int) -> str:
    return f"{size / 1e6:,.3f}"
