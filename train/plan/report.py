"""A plan as text."""

from typing import Any

from train.config.changes import Flags, words
from train.plan.sizes import gb, mb

SHOWN = 0.01  # of the bytes of a step or a refresh; smaller collectives are summed up in one line
ON_CPU = """\
Compiled for simulated CPU devices. On an accelerator temporaries differ, as fusion and scheduling do. The CPU compiler
computes and sends bfloat16 as float32, and writes an all-reduce and a slice where others may use a reduce-scatter,
which sends half."""
IN_CHUNKS = "none: logits are chunked, so those of one chunk are among what follows"
BETWEEN_PASSES = "shapes of what the forward pass leaves for the backward pass"
OF_THE_VOCABULARY = "the same, arrays with an axis of the vocabulary"
OF_A_LAYER = "never whole: those of a layer are among what follows"
IN_THE_PASS = "none: the backward pass begins with them, so they are among what follows"
DIFFERENCES = "A negative difference: not all of what is listed above it exists at one time."
OPERATIONS = "Operations are those of the matrix products per token, over those of the step as asked."
UNKNOWN_TRIP_COUNT = (
    "Refresh traffic counts one iteration of each loop with unknown trip count, and every branch of each conditional."
)


def text(plan: dict[str, Any]) -> str:
    """Return the printed form of a plan, except its remedies."""
    parts = [_heading(plan), _parts(plan)]
    if plan["compiled"] is not None:
        parts.append(_compiled(plan))
    if plan["sent"] and plan["devices"] > 1:
        parts += [_traffic(plan["sent"], at_refresh=False)]
        parts += [_traffic(plan["sent"], at_refresh=True)] if any(row["conditional"] for row in plan["sent"]) else []
    if plan["device"] == "cpu":
        parts.append(ON_CPU)
    return "\n\n".join(parts)


def advice(plan: dict[str, Any]) -> str:
    """Return the printed form of the remedies, and which to take."""
    if not plan["together"]:
        conclusion = "Nothing above saves memory."
    else:
        last = plan["together"][-1]
        conclusion = (
            f"It fits with {last['words']}."
            if last["needed"] <= plan["memory"]["limit"]
            else "None of these makes it fit. "
            f"The smallest that was reached is {gb(last['needed'])}, with {last['words']}."
        )
    return f"{_remedies(plan)}\n\n{conclusion}"


def verdict(plan: dict[str, Any]) -> str:
    """Return whether the step fits, and by how much, as one sentence; empty without a memory."""
    limit, need = plan["memory"]["limit"], plan["needed"]
    if limit is None:
        accepted = (
            f"Fits: yes. The compiler for {plan['topology']} accepts the step, which needs {gb(need)} on each device."
        )
        return accepted if plan["topology"] else ""
    margin = f"{gb(limit - need)} remain" if plan["memory"]["fits"] else f"{gb(need - limit)} too much"
    answer = "yes" if plan["memory"]["fits"] else "no"
    return f"Fits: {answer}. The step needs {gb(need)} on each device, which has {gb(limit)}: {margin}."


def _heading(plan: dict[str, Any]) -> str:
    flags, mesh = plan["flags"], plan["mesh"]
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.items())
    where = f"{plan['topology']} ({plan['device']})" if plan["topology"] else plan["device"].replace("cpu", "CPU")
    described = (
        f"{flags['model']}, {plan['parameters']:,} parameters, {flags['optimizer']} at rank {flags['rank']}, "
        f"precision {flags['precision']}, logits {flags['logits']}, remat {flags['remat']}\n"
        f"{axes}: {plan['devices']} device{'s' * (plan['devices'] > 1)}, {where}; compiled in "
        f"{plan['compile_seconds']:.0f} s\n"
        f"{flags['batch_size']} windows of {flags['seq_len']} tokens per update, in {flags['accumulate']} "
        f"part{'s' * (flags['accumulate'] > 1)} of "
        f"{flags['batch_size'] / (flags['accumulate'] * mesh['data'] * mesh['fsdp']):g} per device of data x fsdp"
    )
    return "\n".join(filter(None, [verdict(plan), described]))


def _parts(plan: dict[str, Any]) -> str:
    """Return the memory of a step as a sum, whose last terms are differences of programs."""
    held, parts, need = plan["bytes"], plan["parts"], plan["needed"]
    is_apart = plan["flags"]["update_in_backward"]
    activations, logits = ("inputs of layers", IN_THE_PASS) if is_apart else (BETWEEN_PASSES, OF_THE_VOCABULARY)
    rows = [
        ("parameters", held["parameters"], "exact"),
        ("optimizer state", held["optimizer_state"], f"exact; AdamW's would be {mb(held['adamw_state'])}"),
        ("batch", held["batch"], "exact"),
        ("gradients", held["gradients"], OF_A_LAYER if is_apart else "exact"),
        ("saved activations", parts["saved"], activations),
        ("saved logits", parts["logits"], logits if parts["chunk"] is None else IN_CHUNKS),
    ]
    differences = [("other temporaries", need - sum(size for _, size, _ in rows), "difference: what remains")]
    if parts["passes"] is not None:
        before = sum(size for name, size, _ in rows if name != "optimizer state")
        differences = [
            ("other, of both passes", parts["passes"] - before, "difference: loss and gradients, compiled alone"),
            ("other, of the update", need - parts["passes"] - held["optimizer_state"], "difference: the whole step"),
        ]
    total = ("needed at one time", need, "by the compiler" if plan["compiled"] else "by the compiler, which refuses it")
    note = f"\n{DIFFERENCES}" if any(size < 0 for _, size, _ in differences) else ""
    return _table("memory per device, MB", [*rows, *differences, total]) + note


def _compiled(plan: dict[str, Any]) -> str:
    compiled = plan["compiled"]
    rows = [
        ("arguments", compiled["argument"], "parameters, optimizer state, batch"),
        ("temporaries", compiled["temp"], "include gradients; need not all exist at one time"),
    ]
    if compiled["generated_code"]:
        rows.append(("program", compiled["generated_code"], ""))
    rows.append(("total", compiled["total"], "arguments, results that do not alias them, temporaries, program"))
    if plan["needed"] != compiled["total"]:
        rows.append(("peak", compiled["peak"], "without the program"))
    return _table("planned by the compiler, MB", rows)


def _table(title: str, rows: list[tuple[str, int, str]]) -> str:
    lines = [f"{name:<24}{mb(size):>14}  {note}".rstrip() for name, size, note in rows]
    return "\n".join([title, *lines])


def _remedies(plan: dict[str, Any]) -> str:
    tokens = plan["flags"]["batch_size"] * plan["flags"]["seq_len"]

    def row(one: dict[str, Any], label: str) -> str:
        saved, fits = plan["needed"] - one["needed"], one["needed"] <= plan["memory"]["limit"]
        operations = one["operations"] / one["tokens"] / (plan["operations"] / tokens)
        cells = f"{gb(one['needed']):>12}{gb(saved):>12}{operations:>12.2f}  {'yes' if fits else 'no':<5}"
        return f"{label:<44}{cells}{one['price']}".rstrip()

    head = f"{'what to change, alone':<44}{'needs':>12}{'saves':>12}{'operations':>12}  {'fits':<5}price"
    lines = [head, *(row(one, one["words"]) for one in plan["remedies"])]
    if len(plan["together"]) > 1:
        lines.append("together")
        before: dict[str, Any] = {}
        for one in plan["together"]:
            lines.append(row(one, f"  {_difference(one['flags'], before)}"))
            before = one["flags"]
    return "\n".join([*lines, OPERATIONS])


def _difference(flags: Flags, before: Flags) -> str:
    """Return what changes from one step to the next, as in "and --rank 4"."""
    added = {name: value for name, value in flags.items() if before.get(name) != value}
    absent = {name: value for name, value in before.items() if name not in flags}
    parts = [("and " if before else "", added), ("without ", absent)]
    return ", ".join(f"{word}{words(part)}" for word, part in parts if part)


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
        lines.append(f"{name:<48}{row['group_size']:>9}{row['times']:>9}{mb(row['bytes']):>14}")
    if len(shown) < len(sent):
        rest = sum(row["times"] for row in sent) - sum(row["times"] for row in shown)
        size = total - sum(row["bytes"] for row in shown)
        lines.append(f"{f'{len(sent) - len(shown)} other kinds':<48}{'':>9}{rest:>9}{mb(size):>14}")
    lines.append(f"{'total':<48}{'':>9}{'':>9}{mb(total):>14}")
    return "\n".join([*lines, *([UNKNOWN_TRIP_COUNT] if at_refresh else [])])
