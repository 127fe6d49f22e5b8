"""A plan as text."""

from typing import Any

SHOWN = 0.01  # of the bytes of a step or a refresh; smaller collectives are summed up in one line
ON_CPU = """\
Compiled for simulated CPU devices. On an accelerator temporaries differ, as fusion and scheduling do. The CPU compiler
computes and sends bfloat16 as float32, and writes an all-reduce and a slice where others may use a reduce-scatter,
which sends half."""
UNKNOWN_TRIP_COUNT = (
    "Refresh traffic counts one iteration of each loop with unknown trip count, and every branch of each conditional."
)


def text(plan: dict[str, Any]) -> str:
    """Return the printed form of a plan."""
    parts = [_heading(plan), _memory(plan)]
    if plan["sent"] is not None:
        parts += [_traffic(plan["sent"], at_refresh=False)]
        parts += [_traffic(plan["sent"], at_refresh=True)] if any(row["conditional"] for row in plan["sent"]) else []
    if not plan["topology"]:
        parts.append(ON_CPU)
    return "\n\n".join(parts)


def _heading(plan: dict[str, Any]) -> str:
    flags, mesh = plan["flags"], plan["mesh"]
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.items())
    where = f"{plan['topology']} ({plan['device']})" if plan["topology"] else "CPU"
    return (
        f"{flags['model']}, {plan['parameters']:,} parameters, {flags['optimizer']} at rank {flags['rank']}, "
        f"precision {flags['precision']}, logits {flags['logits']}, remat {flags['remat']}\n"
        f"{axes}: {plan['devices']} devices, {where}; compiled in {plan['compile_seconds']:.0f} s\n"
        f"{flags['batch_size']} windows of {flags['seq_len']} tokens per update, in {flags['accumulate']} parts of "
        f"{flags['batch_size'] / (flags['accumulate'] * mesh['data'] * mesh['fsdp']):g} per device of data x fsdp"
    )


def _memory(plan: dict[str, Any]) -> str:
    held, compiled = plan["bytes"], plan["compiled"]
    rows = [
        ("parameters", held["parameters"], "exact"),
        ("optimizer state", held["optimizer_state"], f"exact; AdamW's would be {_mb(held['adamw_state'])}"),
        ("batch", held["batch"], "exact"),
    ]
    if compiled is None:
        return _table("memory per device, MB", rows) + f"\n\nDoes not fit. {plan['does_not_fit']}"
    rows.append(
        ("temporaries", compiled["temp"], f"planned by the compiler; includes gradients, {_mb(held['gradients'])}")
    )
    if compiled["generated_code"]:
        rows.append(("program", compiled["generated_code"], ""))
    rows.append(("total", compiled["total"], "arguments, results that do not alias them, temporaries, program"))
    if plan["topology"]:  # a CPU compiler does not include its temporaries there
        rows.append(("peak", compiled["peak"], "planned by the compiler; without the program"))
    return _table("memory per device, MB", rows)


def _table(title: str, rows: list[tuple[str, int, str]]) -> str:
    lines = [f"{name:<24}{_mb(size):>14}  {note}".rstrip() for name, size, note in rows]
    return "\n".join([title, *lines])


def _traffic(collectives: list[dict[str, Any]], *, at_refresh: bool) -> str:
    """Return the table of the collectives of each step, or of the additional ones at a refresh.

    Conditional traffic is taken to be that of the optimizer's refresh.
    """
    sent = [row for row in collectives if row["conditional"] is at_refresh]
    total = sum(row["bytes"] for row in sent)
    shown = [row for row in sent if row["bytes"] >= SHOWN * total and row["bytes"]]
    title = "sent per device at a refresh, additionally" if at_refresh else "sent per device in a step"
    lines = [f"{title:<48}{'devices':>9}{'times':>9}{'MB':>14}"]
    for row in shown:
        name = f"{row['kind']} {row['dtype']}[{','.join(map(str, row['shape']))}]"
        lines.append(f"{name:<48}{row['group_size']:>9}{row['times']:>9}{_mb(row['bytes']):>14}")
    if len(shown) < len(sent):
        rest = sum(row["times"] for row in sent) - sum(row["times"] for row in shown)
        size = total - sum(row["bytes"] for row in shown)
        lines.append(f"{f'{len(sent) - len(shown)} other kinds':<48}{'':>9}{rest:>9}{_mb(size):>14}")
    lines.append(f"{'total':<48}{'':>9}{'':>9}{_mb(total):>14}")
    return "\n".join([*lines, *([UNKNOWN_TRIP_COUNT] if at_refresh else [])])


def _mb(size: int) -> str:
    return f"{size / 1e6:,.3f}"
