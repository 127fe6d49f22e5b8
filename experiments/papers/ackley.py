"""Do jumps of the subspace keep GaLore from the minimum? Figure 3 of arXiv 2502.01586.

    python -m experiments.papers.ackley

Adam on the Ackley function of two variables, in a subspace of one dimension that is chosen anew
every ten of a hundred updates. The figure shows one path of each method, of a start and a rate that
the paper does not give: GaLore misses the minimum at scale 1, and reaches it at scale 3 with larger
jumps, while SubTrack-Grad reaches it. Here are 256 starts and three rates, for every rule.

A point is kept as a matrix of two equal columns, as a subspace of the plane needs m = 2 <= n. All
points of a run are one stack, so each has a subspace of its own.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optax.contrib import MuonDimensionNumbers

import grass_optax
from experiments.provenance import made_by, made_on
from experiments.study import Study, caption, command_line, row, run_command, write_tables
from train.compare.figures import COLOURS
from train.storage.metrics import save_figure

RESULTS = Path("docs/results/ackley.jsonl")
STEPS, INTERVAL, STARTS, SIDE = 100, 10, 256, 4.0
NEAR = 0.1  # distance from the minimum that counts as reaching it
METHODS = ("adam", "galore", "subtrack_grad", "grasswalk", "grassjump", "no recovery, jump", "no recovery, walk")
CELLS = f"starts that end within {NEAR:g} of the minimum / median value at the end / median of the longest step"
SCALES, RATES = (1.0, 3.0), (0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One method from all starts."""

    method: str
    scale: float
    learning_rate: float


class Outcome(NamedTuple):
    """What became of the starts."""

    reached: float  # the part of the starts that end near the minimum
    value: float  # median of the function at the end
    longest: float  # median over starts of the longest step
    path: list[list[float]]  # of the first start
    seconds: float
    device: str
    corpus: str  # what is minimised
    commit: str
    date: str
    processor: str = "unknown"


def height(point: jax.Array) -> jax.Array:
    """The function of points (..., 2); its minimum is 0, at 0."""
    waves = jnp.mean(jnp.cos(2 * jnp.pi * point), axis=-1)
    distance = jnp.sqrt(jnp.mean(point**2, axis=-1) + 1e-12)  # has a slope everywhere
    return 20 + jnp.e - 20 * jnp.exp(-0.2 * distance) - jnp.exp(waves)


def optimizer(run: Run) -> optax.GradientTransformation:
    """The method in one dimension of each plane."""
    if run.method == "adam":
        return optax.adam(run.learning_rate * run.scale)
    options: dict[str, Any] = {"rank": 1, "update_proj_gap": INTERVAL, "scale": run.scale}
    options["weight_dimension_numbers"] = MuonDimensionNumbers(1, 2)
    if run.method.startswith("no recovery"):  # the papers' base: a rule alone, as GaLore's is
        walks = run.method.endswith("walk")
        rule = grass_optax.subspaces.random_walk() if walks else grass_optax.subspaces.random_jump()
        initial = grass_optax.subspaces.range_finder() if walks else None
        direction = grass_optax.assemble(rule, grass_optax.transport.keep(), None, initial=initial, **options)
        return grass_optax.with_rates(direction, run.learning_rate)
    tx: optax.GradientTransformation = getattr(grass_optax, run.method)(run.learning_rate, **options)
    return tx


def starts() -> jax.Array:
    """The first points (STARTS, 2), uniform in a square around the minimum."""
    return jax.random.uniform(jax.random.key(0), (STARTS, 2), minval=-SIDE, maxval=SIDE)


def paths(run: Run) -> np.ndarray:
    """The points (STEPS + 1, STARTS, 2) of all updates."""
    tx = optimizer(run)
    points = jnp.stack([starts()] * 2, axis=-1)  # (STARTS, 2, 2): two equal columns
    state, found = tx.init(points), [points[..., 0]]

    @jax.jit
    def update(points: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        grads = jax.vmap(jax.grad(height))(points[..., 0])
        updates, state = tx.update(jnp.stack([grads] * 2, axis=-1), state, points)
        return points + jnp.asarray(updates), state

    for _ in range(STEPS):
        points, state = update(points, state)
        found.append(points[..., 0])
    return np.asarray(jnp.stack(found))


def _function(run: Run) -> str:
    """What all runs minimise, where other studies have a text."""
    del run
    return "Ackley"


def train(run: Run) -> Outcome:
    """Follow all starts."""
    made, began = made_by(), time.perf_counter()
    found = paths(run)
    distances = np.linalg.norm(found[-1], axis=-1)
    steps = np.linalg.norm(np.diff(found, axis=0), axis=-1)
    return Outcome(
        reached=float(np.mean(distances < NEAR)),
        value=float(np.median(height(jnp.asarray(found[-1])))),
        longest=float(np.median(steps.max(axis=0))),
        path=np.round(found[:, 0], 3).tolist(),
        seconds=round(time.perf_counter() - began, 1),
        device=jax.devices()[0].device_kind,
        corpus=_function(run),
        **made,
    )


RUNS = [Run(method=method, scale=scale, learning_rate=rate) for scale in SCALES for method in METHODS for rate in RATES]
STUDY = Study(
    run=Run,
    outcome=Outcome,
    train=train,
    text=_function,
    fingerprint=_function,
    origin="the Ackley function",
)


def report(outcomes: Mapping[Run, Outcome]) -> str:
    """A table for each scale: each method at each rate."""
    parts = []
    for scale in SCALES:
        found = {run: outcomes[run] for run in RUNS if run.scale == scale and run in outcomes}
        if found:
            lines = [
                caption(f"**Scale {scale:g}**: {CELLS}."),
                "",
                row("method", *(f"rate {rate:g}" for rate in RATES)),
                "|---|" + "---:|" * len(RATES),
            ]
            lines += [row(method, *(cell(found, method, scale, rate) for rate in RATES)) for method in METHODS]
            parts.append("\n".join(lines))
    return "\n\n".join([*parts, caption(f"Made {made_on(outcomes.values())}.")]) if parts else ""


def cell(outcomes: Mapping[Run, Outcome], method: str, scale: float, rate: float) -> str:
    """What a table has of a run."""
    run = Run(method=method, scale=scale, learning_rate=rate)
    if run not in outcomes:
        return "-"
    found = outcomes[run]
    return f"{found.reached:.0%} / {found.value:.2f} / {found.longest:.2f}"


def figure(outcomes: Mapping[Run, Outcome], rate: float = 0.3) -> Figure:
    """The paths from the first start, a panel for each, over the levels of the function."""
    shown = METHODS[:5]
    drawn = Figure(figsize=(12, 6), layout="constrained")
    for line, scale in zip(drawn.subplots(len(SCALES), len(shown), sharex="row", sharey="row"), SCALES, strict=True):
        runs = {method: Run(method=method, scale=scale, learning_rate=rate) for method in shown}
        found = {method: np.array(outcomes[run].path) for method, run in runs.items() if run in outcomes}
        if not found:
            continue
        x, y = around(np.concatenate(list(found.values())))
        levels = np.asarray(height(jnp.stack(jnp.meshgrid(x, y), axis=-1)))
        for axes, (method, path) in zip(line, found.items(), strict=False):
            axes.contour(x, y, levels, levels=12, colors="0.8", linewidths=0.7)
            _draw(axes, path)
            axes.set(title=method, xlabel="x (no unit)", aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        line[0].set_ylabel(f"scale {scale:g}, rate {rate:g}\ny (no unit)")
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn


def around(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates x and y of a square around points, with a margin."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    half = 0.65 * np.max(np.ptp(points, axis=0))
    x, y = np.linspace(middle - half, middle + half, 201).T
    return x, y


def _draw(axes: Axes, path: np.ndarray) -> None:
    axes.plot(*path.T, color=COLOURS[0], linewidth=1.2, label="path")
    axes.plot(*path[0], "o", color=COLOURS[3], markersize=8, markerfacecolor="none", label="start")
    axes.plot(*path[-1], "s", color=COLOURS[3], markersize=6, label="end")
    axes.plot(0, 0, "k+", markersize=14, markeredgewidth=2, label="minimum, where it is near")


def main() -> None:
    """Make what is missing, then print the tables and write them and the figure."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--list", "--dry-run", action="store_true", help="only list what is missing, and its cost")
    args = parser.parse_args()
    if args.list:
        missing = [run for run in RUNS if run not in STUDY.read(args.results)]
        print(*missing, f"{len(missing)} runs are missing: about {5 * len(missing)} seconds", sep="\n")
        return
    if not args.report:
        STUDY.make(RUNS, args.results, args.workers)
    outcomes = STUDY.read(args.results)
    print(report(outcomes))
    if not args.report:
        save_figure(figure(outcomes), args.results.with_suffix(".png"))
        write_tables(args.results.with_suffix(".md"), report(outcomes))


if __name__ == "__main__":
    run_command(main)
