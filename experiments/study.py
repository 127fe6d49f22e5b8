"""A study: runs that differ in a few settings, and a file with a line for each of them.

A line is written when its run is finished. Started again, a study makes only the runs that its file
does not have, so it can be stopped and resumed.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import textwrap
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from train.config.run import UserError

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"  # around the tables in a page


class Result(Protocol):
    """The result of a run, a named tuple."""

    @property
    def corpus(self) -> str:
        """Fingerprint of the text of the run."""

    def _asdict(self) -> dict[str, Any]: ...


RunT = TypeVar("RunT")
OutcomeT = TypeVar("OutcomeT", bound=Result)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Generic[RunT, OutcomeT]):
    """What runs are, and how they are made.

    Attributes:
      run: The dataclass of the settings of a run, frozen.
      outcome: The named tuple of its result.
      train: Makes a run. It is called in other processes.
      text: Names the text of a run.
      fingerprint: Prepares the text of a run, once for all processes, and identifies it.
      origin: What all texts come from, and how to get the same again; for a message.
    """

    run: type[RunT]
    outcome: type[OutcomeT]
    train: Callable[[RunT], OutcomeT]
    text: Callable[[RunT], Hashable]
    fingerprint: Callable[[RunT], str]
    origin: str

    def read(self, path: Path) -> dict[RunT, OutcomeT]:
        """The finished runs of a file."""
        rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        names = [field.name for field in dataclasses.fields(self.run)]  # type: ignore[arg-type]
        return {
            self.run(**{name: row.pop(name) for name in names}): self.outcome(**row)
            for row in rows
        }  # fmt: skip

    def line(self, run: RunT, outcome: OutcomeT) -> str:
        """The line of a finished run."""
        return json.dumps(dataclasses.asdict(run) | outcome._asdict()) + "\n"  # type: ignore[call-overload]

    def make(self, runs: Iterable[RunT], path: Path, workers: int) -> None:
        """Make the runs that the file does not have, in this order, `workers` at a time.

        Raises:
          UserError: If the runs that it has were trained on another text.
        """
        done = self.read(path)
        missing = [run for run in dict.fromkeys(runs) if run not in done]
        for run in {self.text(run): run for run in missing}.values():
            self._refuse_other_text(run, done, path)
        context = multiprocessing.get_context("spawn")
        numbers = context.Queue()
        for number in range(workers):
            numbers.put(number)
        with (
            open(path, "a") as file,
            ProcessPoolExecutor(workers, context, initializer=_keep_to_own_cores, initargs=(numbers, workers)) as pool,
        ):
            started = {pool.submit(self.train, run): run for run in missing}
            try:
                for count, future in enumerate(as_completed(started), 1):
                    run, outcome = started[future], future.result()
                    file.write(self.line(run, outcome))
                    file.flush()
                    print(f"[{count}/{len(missing)}] {run} {outcome}", flush=True)
            finally:  # after an error, do not make hundreds of runs that nobody would write
                pool.shutdown(cancel_futures=True)

    def _refuse_other_text(self, run: RunT, done: Mapping[RunT, OutcomeT], path: Path) -> None:
        """Prepare a text, and compare it with that of finished runs."""
        text, corpus = self.text(run), self.fingerprint(run)
        if any(self.text(other) == text and outcome.corpus != corpus for other, outcome in done.items()):
            raise UserError(
                f"the runs of {text} in {path} were trained on another text than {self.origin}, or pass another "
                "--results file."
            )


def _keep_to_own_cores(numbers: Any, workers: int) -> None:
    """Give this process its share of the cores: a program this small does not keep two busy.

    An accelerator is shared by all.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if hasattr(os, "sched_setaffinity"):
        cores, number = sorted(os.sched_getaffinity(0)), numbers.get()
        os.sched_setaffinity(0, cores[number::workers] or cores)


def command_line(description: str | None, results: Path, workers: int | None = None) -> argparse.ArgumentParser:
    """The flags that studies share; by default, as many workers as there are cores."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only print the tables of the runs that are there")
    parser.add_argument("--workers", type=int, default=workers or os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--results", type=Path, default=results, help="file of the finished runs")
    return parser


def run_command(main: Callable[[], None]) -> None:
    """Run a command: what its user can put right ends in one sentence, not in a traceback."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def caption(text: str) -> str:
    """The sentence above a table, in lines of a page."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation if there are several."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def write_tables(page: Path, tables: str) -> None:
    """Put tables between the marks of a page, if there is one.

    Raises:
      UserError: If a mark is missing.
    """
    if not page.exists():
        return
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page} has no place for its tables: add a line {BEGIN} and, below it, {END}.")
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
