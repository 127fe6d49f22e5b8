"""Timing of contestants that take turns, statistics of the times, and a description of the machine.

In every round each contestant makes one step, in a new random order, so that other load on the
machine affects all alike; ratios are taken within a round, then their median. The first step, the
warm-up rounds and the first refresh are reported separately, as code then runs for the first time.
"""

import dataclasses
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import SLEEPING_THREADS
from train.system.devices import processor_name

PACKAGES = (
    "jax", "jaxlib", "optax", "numpy", "flax", "rollfast", "torch", "transformers", "galore-torch", "fira",
    "apollo-torch",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Something whose steps can be timed."""

    name: str
    step: Callable[[], None]  # returns when the step is complete
    gap: int | None = None  # interval between its refreshes; None: all steps are alike


class Times(NamedTuple):
    """Seconds of one contestant, by the index of the step."""

    first: float
    first_refresh: float | None
    regular: dict[int, float]
    refresh: dict[int, float]


def take_turns(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every step of every contestant."""
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


def compiled(lowered: Sequence[Any]) -> list[Any]:
    """Compile several programs at once: a dozen of them take minutes one after the other."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), lowered))


def sort_out(seconds: Sequence[float], gap: int | None, warmup: int) -> Times:
    """Separate the first step, the steps with a refresh, and the regular ones.

    Step i follows i updates.
    """
    due = [i for i in range(1, len(seconds)) if gap and i % gap == 0]
    regular = {i: s for i, s in enumerate(seconds) if i >= max(warmup, 1) and i not in due}
    first_refresh = seconds[due[0]] if due else None
    return Times(seconds[0], first_refresh, regular, {i: seconds[i] for i in due[1:]})


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Minimum, quartiles and maximum; None if there are no values."""
    if not values:
        return None
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"min": min(values), "q1": low, "median": middle, "q3": high, "max": max(values), "count": len(values)}


def ratios(times: Times, base: Times) -> list[float]:
    """Ratios of regular steps to those of another contestant, round by round."""
    return [times.regular[i] / base.regular[i] for i in times.regular.keys() & base.regular.keys()]


def compare(times: Times, base: Times, own_gap: int | None) -> dict[str, Any]:
    """All statistics of one contestant relative to the base.

    `refresh_over_base` is a refresh step over a step of the base; `mean_over_base` is the mean step
    when one in `own_gap` is a refresh.
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
    """The machine and the versions of a measurement."""
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "backend": device.platform,
        "device": device.device_kind,
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "environment": {name: os.environ.get(name) for name in ("XLA_FLAGS", *SLEEPING_THREADS)},
        "versions": {name: v for name in PACKAGES if (v := version(name))},
    }


def version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_json(path: Path | None, arguments: Namespace, where: dict[str, Any], tables: list[dict[str, Any]]) -> None:
    """Write the results of a command, with its arguments and machine."""
    if path is None:
        return
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"arguments": plain, "machine": where, "tables": tables}, indent=1) + "\n")


def say_where(where: dict[str, Any]) -> None:
    """Print `machine` in two lines."""
    versions = ", ".join(f"{name} {v}" for name, v in where["versions"].items())
    load = where["load"][0]
    print(f"{where['date']}  {where['device']} ({where['processor']}, {where['cpus']} CPUs, load {load:.1f})")
    print(f"Python {where['python']}, {versions}", flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def milliseconds(values: dict[str, float] | None) -> str:
    """The median, then minimum and maximum in brackets."""
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
