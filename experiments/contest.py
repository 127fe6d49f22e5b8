"""Optimizers that differ in one thing, compared table by table, each at a learning rate of its own.

The rate is one of which neither half nor twice is better, on a seed that is not reported; a contest
may choose the scale of the matrices with it. Until they are found, they are the defaults of the
contestant.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from experiments import search
from experiments.contest_tables import Compared, Rates, Table, panel_of, table_text
from experiments.figures import panels_figure
from experiments.pretraining import Outcome, Run
from experiments.study import Study, command_line, write_tables
from models.config import CONFIGS
from train.config.run import UserError
from train.storage.metrics import save_figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contest:
    """The tables of a study.

    Attributes:
      results: The file of the finished runs.
      study: How they are made.
      tables: In the order in which they are made. A contestant's rate is chosen in its first one.
      default_rate: The learning rate at which the search of a contestant starts, in a model.
      tunes: What is chosen for each contestant.
      model: What is trained.
      seeds: Those that are reported.
      seed_of_rates: The one by which learning rates are chosen.
    """

    results: Path
    study: Study[Run, Outcome]
    tables: tuple[Table, ...]
    default_rate: Callable[[str, str], float]
    tunes: tuple[Literal["learning_rate", "scale"], ...] = ("learning_rate",)
    model: str = Run.model
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    seed_of_rates: int = 100

    def contestants(self) -> list[str]:
        """All of them."""
        return list(dict.fromkeys(name for table in self.tables for name in table.contestants))

    def only(self, some: Sequence[str] | None) -> "Contest":
        """The contest with some of its contestants; with all of them for None.

        Raises:
          UserError: If it does not have one of them.
        """
        if some is None:
            return self
        known = self.contestants()
        if unknown := [name for name in some if name not in known]:
            raise UserError(f"--only {unknown[0]!r} is no contestant: choose from {'; '.join(known)}.")
        tables = [
            table._replace(contestants=tuple(name for name in table.contestants if name in some))
            for table in self.tables
        ]
        return dataclasses.replace(self, tables=tuple(table for table in tables if table.contestants))

    def trial(self, contestant: str, point: search.Point) -> Run:
        """The trial some steps from the defaults."""
        table = next(table for table in self.tables if contestant in table.contestants)
        rates = Rates(self.default_rate(contestant, self.model), Run.scale)
        steps = zip(self.tunes, point, strict=True)
        there = rates._replace(**{name: search.FACTORS[name](count) * getattr(rates, name) for name, count in steps})
        return self._run(table, contestant, there, self.seed_of_rates)

    def loss_at(self, contestant: str, outcomes: Mapping[Run, Outcome]) -> Callable[[search.Point], float | None]:
        """The loss of a trial, if it was made."""

        def loss(point: search.Point) -> float | None:
            outcome = outcomes.get(self.trial(contestant, point))
            return outcome and outcome.eval_loss

        return loss

    def missing_trials(self, outcomes: Mapping[Run, Outcome]) -> list[Run]:
        """The trials to be made next."""
        trials = [
            self.trial(name, point)
            for name in self.contestants()
            for point in search.trials(self.loss_at(name, outcomes), axes=len(self.tunes))
        ]
        return [run for run in trials if run not in outcomes]

    def rates(self, outcomes: Mapping[Run, Outcome]) -> dict[str, Rates]:
        """What is chosen for each contestant."""
        return {name: next(self._found(name, outcomes)) for name in self.contestants()}

    def shown_rates(self, outcomes: Mapping[Run, Outcome]) -> dict[str, Rates]:
        """What a table shows: what is chosen, or was before, if there are runs of that only."""

        def is_made(name: str, rates: Rates) -> bool:
            tables = [table for table in self.tables if name in table.contestants]
            return any(self._run(table, name, rates, seed) in outcomes for table in tables for seed in self.seeds)

        return {
            name: next((rates for rates in self._found(name, outcomes) if is_made(name, rates)), chosen)
            for name, chosen in self.rates(outcomes).items()
        }

    def _found(self, name: str, outcomes: Mapping[Run, Outcome]) -> Iterator[Rates]:
        """What the searches found, of all settings, of all but the last and so on; the defaults."""
        loss = self.loss_at(name, outcomes)
        for axes in range(len(self.tunes), 0, -1):
            rest = (0,) * (len(self.tunes) - axes)
            if point := search.best(lambda some, rest=rest: loss((*some, *rest)), axes):  # type: ignore[misc]
                trial = self.trial(name, (*point, *rest))
                yield Rates(trial.learning_rate, trial.scale)
        trial = self.trial(name, (0,) * len(self.tunes))
        yield Rates(trial.learning_rate, trial.scale)

    def runs(self, table: Table, rates: Mapping[str, Rates]) -> list[Run]:
        """The runs of a table: whole seeds first, so that one cut short is comparable."""
        return [self._run(table, name, rates[name], seed) for seed in self.seeds for name in table.contestants]

    def _run(self, table: Table, contestant: str, rates: Rates, seed: int) -> Run:
        return Run(
            contestant=contestant,
            rank=CONFIGS[self.model].hidden_size // table.share,
            update_proj_gap=table.update_proj_gap,
            learning_rate=rates.learning_rate,
            scale=rates.scale,
            seed=seed,
            model=self.model,
        )

    def compared(self, outcomes: Mapping[Run, Outcome]) -> Iterator[Compared]:
        """The tables of all models in which two contestants have runs."""
        for model in CONFIGS:
            contest = dataclasses.replace(self, model=model)
            rates = contest.shown_rates(outcomes)
            for table in self.tables:
                runs = [run for run in contest.runs(table, rates) if run in outcomes]
                if len({run.contestant for run in runs}) > 1:
                    yield Compared(table, model, rates, {run: outcomes[run] for run in runs})

    def report(self, outcomes: Mapping[Run, Outcome]) -> str:
        """The tables in Markdown."""
        return "\n\n".join(map(table_text, self.compared(outcomes)))

    def figure(self, outcomes: Mapping[Run, Outcome]) -> Figure | None:
        """A panel for each table; None if there is none."""
        panels = [panel_of(one) for one in self.compared(outcomes)]
        return panels_figure(panels, columns=1 if len(panels) < 4 else 2) if panels else None

    def main(self, description: str | None) -> None:
        """Make what is missing, the trials first, and write the tables."""
        parser = command_line(description, self.results)
        parser.add_argument("--model", choices=tuple(CONFIGS), default=self.model, help="what is trained")
        parser.add_argument("--only", nargs="+", metavar="CONTESTANT", help="make the runs of these only")
        args = parser.parse_args()
        contest = dataclasses.replace(self, model=args.model).only(args.only)

        def read() -> dict[Run, Outcome]:
            return self.study.read(args.results)

        if not args.report:
            while trials := contest.missing_trials(read()):
                self.study.make(trials, args.results, args.workers)
            rates = contest.rates(read())
            runs = [run for table in contest.tables for run in contest.runs(table, rates)]
            self.study.make(runs, args.results, args.workers)
        print(self.report(read()))
        self.write_page(args.results, read())

    def write_page(self, results: Path, outcomes: Mapping[Run, Outcome]) -> None:
        """Write the tables into the page, if there is one, and the figure beside it."""
        write_tables(results.with_suffix(".md"), self.report(outcomes))
        if drawn := self.figure(outcomes):
            save_figure(drawn, results.with_suffix(".png"))
