"""The tables of a contest, and its figure: contestants side by side, seed by seed."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.figures import LOSS, Panel
from experiments.pretraining import Outcome, Run, settings
from experiments.provenance import made_on
from experiments.study import caption, row


class Table(NamedTuple):
    """A question: contestants at a rank and an interval, the first of which is the reference."""

    title: str
    contestants: tuple[str, ...]
    share: int  # the rank is the hidden size over it
    update_proj_gap: int


class Rates(NamedTuple):
    """What may be chosen for a contestant: its learning rate, and the scale of its matrices."""

    learning_rate: float
    scale: float


class Compared(NamedTuple):
    """A table with its runs in a model, and what was chosen for its contestants."""

    table: Table
    model: str
    rates: Mapping[str, Rates]
    outcomes: Mapping[Run, Outcome]

    @property
    def size(self) -> str:
        """The model, the rank and the interval."""
        return f"{self.model}, r = m/{self.table.share}, T = {self.table.update_proj_gap}"


def panel_of(compared: Compared) -> Panel:
    """The losses of a table by contestant."""
    losses = {
        name: [outcome.eval_loss for run, outcome in compared.outcomes.items() if run.contestant == name]
        for name in compared.table.contestants
    }
    return Panel(f"{compared.table.title}: {compared.size}", LOSS, {name: of for name, of in losses.items() if of})


def table_text(compared: Compared) -> str:
    """A Markdown table: mean loss over seeds, its standard deviation, and the captured energy."""
    table, _, rates, outcomes = compared
    made = made_on(outcomes.values(), settings(next(iter(outcomes))).data.data)
    lines = [
        caption(f"**{table.title}**: {compared.size}; {made}. A random subspace captures {table.share**-0.5:.3f}."),
        "",
        "| contestant | rate | scale | seeds | loss | deviation | from the first, by seed | mean, its error | energy |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    first: dict[int, float] = {}
    for name in table.contestants:
        of_seed = {run.seed: outcome for run, outcome in outcomes.items() if run.contestant == name}
        if not of_seed:
            continue
        losses = {seed: outcome.eval_loss for seed, outcome in of_seed.items()}
        first = first or losses
        differences = [losses[seed] - first[seed] for seed in losses if seed in first and losses is not first]
        cells = [
            name,
            f"{rates[name].learning_rate:g}",
            f"{rates[name].scale:g}",
            str(len(losses)),
            f"{statistics.mean(losses.values()):.3f}",
            f"{statistics.stdev(losses.values()):.3f}" if len(losses) > 1 else "-",
            ", ".join(f"{difference:+.3f}" for difference in differences) or "-",
            _mean_and_error(differences),
            f"{statistics.mean(outcome.energy for outcome in of_seed.values()):.3f}",
        ]
        lines.append(row(*cells))
    return "\n".join(lines)


def _mean_and_error(values: Sequence[float]) -> str:
    """The mean, and its standard error."""
    if len(values) < 2:
        return "-"
    return f"{statistics.mean(values):+.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"
