"""What do the printed and the released transport do to the size of a step?

    python -m experiments.transports

Eq. 8 of arXiv 2510.01878 has lost the hats that its moments have in LDAdam. The code of SubTrack++,
the only one that its authors have released, has no hats either, and 1 - b2 where eq. 8 has
1 - b2^(t-1). Both make the second moment smaller at every refresh, so that steps are larger.

By how much is measured here on gradients of independent Gaussian numbers, the same at all times.
The size of a step is beside that of Adam's, averaged over 10,000 updates. The subspace stays, or
jumps.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.provenance import made_by, made_on
from experiments.study import caption, row, write_tables
from grass_optax import subspaces, transport
from grass_optax.transport import Transport
from train.compare.figures import style
from train.storage.metrics import save_figure

PAGE = Path("docs/results/transports.md")
B1, B2, EPS = 0.9, 0.999, 1e-8
STEPS, RANK, COLUMNS, DIMENSION = 10_000, 8, 64, 32  # r/m = 1/4
INTERVALS = (20, 50, 100, 200, 500, 1000, 2000)
# The part of the second moment that a move keeps, where it is the same at all times
KEPT = {
    ("with hats", True): RANK / DIMENSION,
    ("as released", False): 1 - B2,
    ("as released", True): (1 - B2) * RANK / DIMENSION,
}
# Losses of Table 4, by interval. SubTrack++ did not converge at 20.
PRINTED = {
    "subtrack": ("not converged", "3.86", "3.89", "3.99", "4.25", "4.45", "4.68"),
    "grasswalk": ("3.72", "3.79", "3.86", "3.98", "4.25", "4.46", "4.68"),
    "grassjump": ("4.33", "4.34", "3.87", "3.96", "4.15", "4.75", "4.89"),
}


class Maker(NamedTuple):
    """What measures."""

    device: str
    commit: str
    date: str
    processor: str
    corpus: str = "none"  # gradients are drawn


def without_hats(factor: Callable[[Array], Array]) -> Transport:
    """V' = factor(t - 1) |Q^2 (V - M^2) + (Q M)^2| and M' = Q M, of the moments as they are."""

    def moved(state: Any, rotation: Any) -> Any:
        if not isinstance(state, optax.ScaleByAdamState):
            return state
        mu = jax.tree.map(jnp.matmul, rotation, state.mu)

        def second(rotation: Array, old: Array, new: Array, nu: Array) -> Array:
            spread = jnp.square(rotation) @ (nu - jnp.square(old))
            return factor(jnp.asarray(state.count)) * jnp.abs(spread + jnp.square(new))

        return state._replace(mu=mu, nu=jax.tree.map(second, rotation, state.mu, mu, state.nu))

    def transported(state: Any, rotation: Any) -> Any:
        return jax.tree.map(
            lambda part: moved(part, rotation), state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
        )

    return transported


TRANSPORTS: dict[str, Transport] = {
    "with hats": transport.rotate(B1, B2),
    "with hats, completed": transport.rotate(B1, B2, completion="isotropic"),
    "as printed": without_hats(lambda count: 1 - B2 ** count.astype(jnp.float32)),
    "as released": without_hats(lambda _: jnp.float32(1 - B2)),
}


def multiplier(transported: Transport, interval: int, jumps: bool) -> float:
    """The mean norm of Adam's direction with a transport at every interval, over that without."""
    adam, rule = optax.scale_by_adam(B1, B2, EPS), subspaces.random_jump()

    def drawn(index: Array) -> Array:
        refresh = subspaces.Refresh(
            key=jax.random.fold_in(jax.random.key(1), index),
            count=index,
            grad=jnp.zeros((DIMENSION, COLUMNS)),
            basis=jnp.zeros((DIMENSION, RANK)),
            inner_state=None,
            rule_state=optax.EmptyState(),
        )
        basis, _ = rule.update(refresh)
        return jnp.asarray(basis)

    def rotation(index: Array) -> Array:
        return drawn(index).T @ drawn(index - 1) if jumps else jnp.eye(RANK)

    def step(states: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
        plain, other = states
        grad = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (RANK, COLUMNS))
        due = (t % interval == 0) & (t > 0)
        other = jax.lax.cond(due, lambda: transported(other, rotation(t // interval)), lambda: other)
        of_plain, plain = adam.update(grad, plain)
        of_other, other = adam.update(grad, other)
        return (plain, other), (jnp.linalg.norm(of_plain), jnp.linalg.norm(of_other))

    first = adam.init(jnp.zeros((RANK, COLUMNS)))
    _, (plain, other) = jax.jit(lambda: jax.lax.scan(step, (first, first), jnp.arange(STEPS)))()
    return float(jnp.mean(other) / jnp.mean(plain))


def predicted(kept: float, interval: int) -> float:
    """The mean of (v / V)^(1/2) over an interval, in the long run, if a move keeps a part of V.

    v is the second moment of the gradient. A move turns V into kept V, and s updates later it is
    b2^s kept V + (1 - b2^s) v; at the end of the interval it is what it was before the move.
    """
    decay = B2 ** np.arange(1, interval + 1)
    after = kept * (1 - decay[-1]) / (1 - kept * decay[-1])
    return float(np.mean((decay * after + 1 - decay) ** -0.5))


def measured() -> dict[tuple[str, bool], list[float]]:
    """The multipliers at all intervals, of each transport, with and without jumps."""
    return {
        (name, jumps): [multiplier(TRANSPORTS[name], interval, jumps) for interval in INTERVALS]
        for name, jumps in itertools.product(TRANSPORTS, (False, True))
    }


def table(found: dict[tuple[str, bool], list[float]]) -> str:
    """A Markdown table: multipliers, and the losses that the paper prints."""
    lines = [row("", *(f"T = {interval}" for interval in INTERVALS)), "|---|" + "---:|" * len(INTERVALS)]
    for (name, jumps), values in found.items():
        subspace = "jumps" if jumps else "stays"
        lines.append(row(f"{name}, the subspace {subspace}", *(f"{value:.2f}" for value in values)))
        if (name, jumps) in KEPT:
            sizes = (predicted(KEPT[name, jumps], interval) for interval in INTERVALS)
            lines.append(row(f"{name}, the subspace {subspace}: predicted", *(f"{size:.2f}" for size in sizes)))
    lines += [row(f"printed loss of {name}", *losses) for name, losses in PRINTED.items()]
    made = made_on([Maker(device=jax.devices()[0].device_kind, **made_by())])
    return "\n".join([*lines, "", caption(f"Made {made}.")])


def figure(found: dict[tuple[str, bool], list[float]]) -> Figure:
    """The multipliers over the interval, both on logarithmic axes."""
    drawn = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, jumps in zip(drawn.subplots(1, 2, sharey=True), (False, True), strict=True):
        for number, name in enumerate(TRANSPORTS):
            axes.plot(INTERVALS, found[name, jumps], label=name, **style(number, len(TRANSPORTS)))
        axes.set(xscale="log", yscale="log", xlabel="T, updates between subspaces")
        axes.set_title("the subspace jumps" if jumps else "the subspace stays", fontsize="medium")
        axes.set_xticks(INTERVALS, [str(interval) for interval in INTERVALS])
        axes.set_xticks([], minor=True)
        axes.set_yticks(ticks := (1, 2, 4, 8, 16), [str(tick) for tick in ticks])
        axes.set_yticks([], minor=True)
        axes.grid(alpha=0.3)
    drawn.axes[0].set_ylabel("size of a step beside Adam's")
    drawn.axes[1].legend()
    return drawn


def main() -> None:
    """Measure, print the table, and write it and the figure."""
    found = measured()
    print(table(found))
    write_tables(PAGE, table(found))
    save_figure(figure(found), PAGE.with_suffix(".png"))


if __name__ == "__main__":
    main()
