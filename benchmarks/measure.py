"""Timing of contestants that take turns, what is said about the times, and where it was measured.

In every round each contestant makes one step, in an order drawn anew, so that whatever else the
machine does hits all of them alike; a ratio is taken within a round before its median is. A first
step, and the rounds of the warm-up, are kept apart, and so is a first refresh: that part of the
program runs for the first time.
"""

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import SLEEPING_THREADS

PACKAGES = (
    "jax", "jaxlib", "optax", "numpy", "flax", "rollfast", "torch", "transformers", "galore-torch", "fira",
    "apollo-torch",
)  # fmt: skip


class Contestant(NamedTuple):
    """Something that can be timed again and again."""

    name: str
    step: Callable[[], None]  # returns when the work is done
    gap: int | None = None  # interval of its refreshes; None: all steps are of one kind


class Times(NamedTuple):
    """Seconds of one contestant, by the number of its step."""

    first: float
    first_refresh: float | None
    regular: dict[int, float]
    refresh: dict[int, float]


def take_turns(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step of every contestant."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    order, shuffle = list(contestants), random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for contestant in order:
                start = time.perf_counter()
                contestant.step()
                seconds[contestant.name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def sort_out(seconds: Sequence[float], gap: int | None, warmup: int) -> Times:
    """The first step, those at which a refresh was due, and the others. Step i has seen i updates
    before it.
    """
    due = [i for i in range(1, len(seconds)) if gap and i % gap == 0]
    regular = {i: s for i, s in enumerate(seconds) if i >= max(warmup, 1) and i not in due}
    first_refresh = seconds[due[0]] if due else None
    return Times(seconds[0], first_refresh, regular, {i: seconds[i] for i in due[1:]})


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Least, quartiles, greatest; None of nothing."""
    if not values:
        return None
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"min": min(values), "q1": low, "median": middle, "q3": high, "max": max(values), "count": len(values)}


def ratios(times: Times, base: Times) -> list[float]:
    """Regular steps over those of another, round by round."""
    return [times.regular[i] / base.regular[i] for i in times.regular.keys() & base.regular.keys()]


def compare(times: Times, base: Times, own_gap: int | None) -> dict[str, Any]:
    """All that is said of one contestant beside the one that the others are compared with.

    `refresh_over_base` is a refresh in steps of the base; `mean_over_base` the mean step where one
    in `own_gap` is a refresh.
    """
    regular, refresh = spread(list(times.regular.values())), spread(list(times.refresh.values()))
    unit = statistics.median(base.regular.values())
    later = times.regular | times.refresh
    longest = max(later, key=lambda i: later[i])
    row: dict[str, Any] = {
        "first_seconds": times.first,
        "first_refresh_seconds": times.first_refresh,
        "regular_seconds": regular,
        "refresh_seconds": refresh,
        "ratio_of_medians": regular["median"] / unit if regular else None,
        "ratio": spread(ratios(times, base)),
        "refresh_over_base": refresh["median"] / unit if refresh else None,
        "mean_over_base": None,
        "longest_over_median": later[longest] / regular["median"] if regular else None,
        "longest_step": longest,
    }
    if regular and (refresh or own_gap is None):
        extra = (refresh["median"] - regular["median"]) / own_gap if refresh and own_gap else 0.0
        row["mean_over_base"] = (regular["median"] + extra) / unit
    return row


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "backend": device.platform,
        "device": device.device_kind,
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "environment": {name: os.environ.get(name) for name in ("XLA_FLAGS", *SLEEPING_THREADS)},
        "versions": {name: v for name in PACKAGES if (v := version(name))},
    }


def processor() -> str:
    """The processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_json(path: Path | None, arguments: Namespace, where: dict[str, Any], tables: list[dict[str, Any]]) -> None:
    """Leave what a command found, with all that is needed to run it again."""
    if path is None:
        return
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"arguments": given, "machine": where, "tables": tables}, indent=1) + "\n")


def say_where(where: dict[str, Any]) -> None:
    """One line of `machine`."""
    versions = ", ".join(f"{name} {v}" for name, v in where["versions"].items())
    load = where["load"][0]
    print(f"{where['date']}  {where['device']} ({where['processor']}, {where['cpus']} CPUs, load {load:.1f})")
    print(f"Python {where['python']}, {versions}", flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def milliseconds(values: dict[str, float] | None) -> str:
    """The median, then least and greatest in brackets."""
    return (
        "-"
        if values is None
        else " ".join((f"{1e3 * values['median']:.2f}", f"[{1e3 * values['min']:.2f}, {1e3 * values['max']:.2f}]"))
    )


def quartiles(values: dict[str, float] | None, digits: int = 2) -> str:
    """The median, then the quartiles in brackets."""
    if values is None:
        return "-"
    return f"{values['median']:.{digits}f} [{values['q1']:.{digits}f}, {values['q3']:.{digits}f}]"
