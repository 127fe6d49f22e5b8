"""Which run of each contestant is the best, and what all seeds say of it.

A sweep has seeds of its own, or the first. The best cell of each row is then repeated with the
other seeds, and the table shows these.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from train.compare.config import Comparison
from train.compare.grid import Cell, cells, repeated, reported_seeds
from train.compare.record import Result, result_of
from train.loop.stopping import merit

LOSS = "eval_loss"
Results = Mapping[Cell, Result]  # of the runs that have one


class Entry(NamedTuple):
    """Some runs that differ in their seeds only: a row of the table."""

    name: str
    runs: tuple[Result, ...]

    @property
    def finished(self) -> list[Result]:
        """Those that have numbers."""
        return [run for run in self.runs if not run.diverged]

    @property
    def cell(self) -> Cell:
        """The cell of its first run."""
        return self.runs[0].cell

    @property
    def diverged(self) -> bool:
        """Whether a run has."""
        return len(self.finished) < len(self.runs)

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


def results(config: Comparison) -> Results:
    """Return the outcomes of all runs that have one: of the sweep, and of its cells with the other
    seeds, even if a sweep has grown and others are the best now.
    """
    found = {
        cell: result_of(cell, config.run_dir / cell.folder, config.metrics)
        for of_sweep in cells(config)
        for cell in (of_sweep, *repeated(config, of_sweep))
    }
    return {cell: result for cell, result in found.items() if result}


def single(results: Iterable[Result]) -> list[Entry]:
    """Return an entry for each result."""
    return [Entry(result.cell.name, (result,)) for result in results]


def trials(config: Comparison, done: Results) -> list[Entry]:
    """Return the cells of the sweep so far, each with the seeds by which it is chosen."""
    by_cell: dict[Cell, list[Result]] = {}
    for cell in cells(config):
        if cell in done:
            by_cell.setdefault(cell._replace(seed=0), []).append(done[cell])
    return [Entry(runs[0].cell.name, tuple(runs)) for runs in by_cell.values()]


def best_of_each(config: Comparison, done: Results) -> list[Entry]:
    """Return the best cell of each row in the sweep so far, the best first."""
    best: dict[str, Entry] = {}
    for entry in best_first(trials(config, done), config.metric):
        best.setdefault(entry.name, entry)
    return list(best.values())


def repetitions(config: Comparison, done: Results) -> list[Cell]:
    """Return the cells of the other seeds: for each row those of its best cell so far, unless that
    has diverged.
    """
    best = {entry.name: entry.cell for entry in best_of_each(config, done) if not entry.diverged}
    names = dict.fromkeys(cell.name for cell in cells(config))
    return [cell for name in names if name in best for cell in repeated(config, best[name])]


def all_cells(config: Comparison) -> Iterator[Cell]:
    """Yield the cells of the sweep, and then, when they have results, the best with other seeds."""
    yield from cells(config)
    yield from repetitions(config, results(config))


def count_runs(config: Comparison, done: Results) -> int:
    """Return the number of runs; a contestant that has diverged throughout is not repeated."""
    untried = {cell.name for cell in cells(config) if cell not in done}
    successful = {entry.name for entry in trials(config, done) if not entry.diverged}
    return len(cells(config)) + len(untried | successful) * len(repeated(config, cells(config)[0]))


def shown(config: Comparison, done: Results) -> list[Entry]:
    """Return the rows of the table: the best setting of each contestant, with the seeds that are
    reported; with that of the sweep as long as there are no others.
    """
    reported, entries = reported_seeds(config), []
    for best in best_of_each(config, done):
        tried = [best.cell._replace(seed=seed) for seed in reported]
        runs = tuple(done[cell] for cell in tried if cell in done)
        entries.append(Entry(best.name, runs) if runs else best)
    return best_first(entries, config.metric)


def differences(config: Comparison, entry: Entry, first: Entry) -> dict[int, float]:
    """Return by how much the metric of an entry exceeds that of the first contestant, by seed."""
    base = {run.cell.seed: run.scores[config.metric] for run in first.finished}
    return {
        run.cell.seed: run.scores[config.metric] - base[run.cell.seed]
        for run in entry.finished
        if run.cell.seed in base
    }
