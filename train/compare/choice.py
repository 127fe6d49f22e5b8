"""Which run of each contestant is the best, and what all seeds say of it.

The runs of the first seed are a sweep. The best of each contestant is then repeated with the other
seeds, and the table shows these.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from train.compare.cells import Cell, cells, repeated, reported_seeds, seeds
from train.compare.config import Comparison
from train.compare.record import Result, result_of
from train.loop.stopping import merit

LOSS = "eval_loss"


class Entry(NamedTuple):
    """Some runs that differ in their seeds only: a row of the table."""

    name: str
    runs: tuple[Result, ...]

    @property
    def finished(self) -> list[Result]:
        """Those that have numbers."""
        return [run for run in self.runs if not run.diverged]

    def values(self, metric: str) -> list[float]:
        """Return a metric of each finished run."""
        return [run.scores[metric] for run in self.finished]

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric; None if a run has diverged."""
        return statistics.mean(self.values(metric)) if len(self.finished) == len(self.runs) else None

    def deviation(self, metric: str) -> float | None:
        """Return the standard deviation of a metric over the seeds, if there are several."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 and len(values) == len(self.runs) else None


def best_first(entries: Sequence[Entry], metric: str) -> list[Entry]:
    """Return the entries in the order of their means, and of their losses if those are equal; those
    with a diverged run come last.
    """

    def key(entry: Entry) -> tuple[float, float]:
        mean, loss = entry.mean(metric), entry.mean(LOSS)
        return (math.inf, math.inf) if mean is None or loss is None else (-merit(metric, mean), loss)

    return sorted(entries, key=key)


def outcomes(config: Comparison, wanted: Sequence[Cell]) -> list[Result]:
    """Return the outcomes of those cells that have one."""
    found = [result_of(cell, config.run_dir / cell.folder, config.metrics) for cell in wanted]
    return [result for result in found if result]


def single(results: Sequence[Result]) -> list[Entry]:
    """Return an entry for each result."""
    return [Entry(result.cell.name, (result,)) for result in results]


def best_of_each(config: Comparison) -> list[Result]:
    """Return the best run of each contestant in the sweep so far, the best first."""
    best: dict[str, Result] = {}
    for entry in best_first(single(outcomes(config, cells(config))), config.metric):
        best.setdefault(entry.name, entry.runs[0])
    return list(best.values())


def all_cells(config: Comparison) -> Iterator[Cell]:
    """Yield the cells of the sweep, and then, when they have results, the best with other seeds."""
    yield from cells(config)
    best = {result.cell.name: result for result in best_of_each(config)}
    for name in dict.fromkeys(cell.name for cell in cells(config)):
        if name in best and not best[name].diverged:
            yield from repeated(config, best[name].cell)


def count_runs(config: Comparison) -> int:
    """Return the number of runs; what has diverged in the sweep is not repeated."""
    contestants = len({cell.name for cell in cells(config)})
    done = outcomes(config, cells(config))
    is_complete = len(done) == len(cells(config))
    if is_complete:
        contestants = len({result.cell.name for result in done if not result.diverged})
    return len(cells(config)) + contestants * (len(seeds(config)) - 1)


def shown(config: Comparison) -> list[Entry]:
    """Return the rows of the table: the best setting of each contestant, with the seeds that are
    reported; with that of the sweep as long as there are no others.
    """
    reported, entries = reported_seeds(config), []
    for best in best_of_each(config):
        others = [cell for cell in (best.cell, *repeated(config, best.cell)) if cell.seed in reported]
        entries.append(Entry(best.cell.name, tuple(outcomes(config, others)) or (best,)))
    return best_first(entries, config.metric)


def differences(config: Comparison, entry: Entry, first: Entry) -> dict[int, float]:
    """Return by how much the metric of an entry exceeds that of the first contestant, by seed."""
    base = {run.cell.seed: run.scores[config.metric] for run in first.finished}
    return {
        run.cell.seed: run.scores[config.metric] - base[run.cell.seed]
        for run in entry.finished
        if run.cell.seed in base
    }
