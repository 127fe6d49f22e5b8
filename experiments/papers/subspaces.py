"""How much of a gradient lies in a subspace? Figures 1, 2, 5, 6 and 9 of arXiv 2510.01878.

    python -m experiments.papers.subspaces --scale cpu

One run of each rule with the trainer's --diagnostics: the captured energy beside that of the best
and of a random subspace of the same rank, the tangent of the subspace error, how far subspaces
move, and what is recovered outside them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.papers import trained
from experiments.papers.experiment import RESULTS, Arm, run_of
from experiments.papers.scales import SCALES, Scale
from experiments.papers.trained import Run
from experiments.provenance import made_on
from experiments.study import Study, caption, command_line, row, run_command, write_tables
from train.figures.subspaces import curvature_figure, energy_figure, spectrum_figure
from train.storage.folder import RunFolder
from train.storage.metrics import Row, read_rows, save_figure

PATH = RESULTS / "subspaces.jsonl"
METHODS = ("galore", "subtrack", "grasswalk", "grassjump")
DESCENDS = "subtrack"  # it descends the subspace error, whose tangent Figures 2 and 9 show
COLUMNS = ("captured", "captured_by_best", "captured_by_random", "overlap", "tangent_relative", "recovered")


class Outcome(NamedTuple):
    """The measurements of a run."""

    rows: list[Row]  # of diagnostics.jsonl
    eval_loss: float | None
    device: str
    corpus: str
    commit: str
    date: str
    processor: str = "unknown"


def runs_of(scale: Scale) -> dict[str, Run]:
    """The run of each method."""
    arms = {name: Arm(method=name, optimizer=name) for name in METHODS}
    return {name: run_of(scale, arm, scale.seeds[0]).at(diagnostics=True) for name, arm in arms.items()}


def train(run: Run) -> Outcome:
    """Train, and keep the measurements."""
    made = trained.train(run)
    rows = read_rows(RunFolder(trained.RUNS / run.name).diagnostics)
    return Outcome(rows, made.eval_loss, made.device, made.corpus, made.commit, made.date, made.processor)


STUDY = Study(
    run=Run,
    outcome=Outcome,
    train=train,
    text=trained.STUDY.text,
    fingerprint=trained.fingerprint,
    origin=trained.STUDY.origin,
)


def report(outcomes: Mapping[Run, Outcome]) -> str:
    """The tables of all scales that have runs."""
    return "\n\n".join(filter(None, (table(name, outcomes) for name in SCALES)))


def table(name: str, outcomes: Mapping[Run, Outcome]) -> str:
    """The table of a scale; empty if it has no runs."""
    scale = SCALES[name]
    found = {method: outcomes[run] for method, run in runs_of(scale).items() if run in outcomes}
    if not found:
        return ""
    size = f"{scale.model}, {scale.steps} steps, r = {scale.rank}, T = {scale.update_proj_gap}"
    lines = [
        caption(f"**Subspaces**, --scale {name}: {size}; {made_on(found.values(), scale.data)}."),
        "",
        row("method", "step", "captured", "by the best", "by a random one", "overlap", "tangent", "recovered"),
        row("---", *["---:"] * 7).replace(" ", ""),
    ]
    for method, outcome in found.items():
        for measured in _three(outcome.rows):
            lines.append(row(method, str(measured["step"]), *(_mean(measured, column) for column in COLUMNS)))
    return "\n".join(lines)


def _three(rows: list[Row]) -> list[Row]:
    """The first measurement after a refresh, one in the middle, and the last."""
    return [rows[i] for i in sorted({min(1, len(rows) - 1), len(rows) // 2, len(rows) - 1})]


def _mean(measured: Mapping[str, Any], column: str) -> str:
    """The mean over all layers."""
    values = [value for of_kind in measured.get(column, {}).values() for value in of_kind]
    return f"{np.mean(values):.3f}" if values and None not in values else "-"


def draw(outcomes: Mapping[Run, Outcome], folder: Path) -> Iterator[Path]:
    """Write the figures, and name them."""
    for scale_name, scale in SCALES.items():
        for method, run in runs_of(scale).items():
            if run not in outcomes:
                continue
            drawn = {"energy": energy_figure}
            drawn |= {"spectrum": spectrum_figure, "curvature": curvature_figure} if method == DESCENDS else {}
            for name, figure in drawn.items():
                path = folder / f"subspaces-{scale_name}-{method}-{name}.png"
                save_figure(figure(outcomes[run].rows, method), path)
                yield path


def main() -> None:
    """Make what is missing, then write the tables and the figures."""
    parser = command_line(__doc__, PATH)
    parser.add_argument("--scale", choices=tuple(SCALES), default="cpu", help="how large the runs are")
    args = parser.parse_args()
    if not args.report:
        STUDY.make(runs_of(SCALES[args.scale]).values(), args.results, args.workers)
    outcomes = STUDY.read(args.results)
    print(report(outcomes))
    write_tables(args.results.with_suffix(".md"), report(outcomes))
    for path in draw(outcomes, args.results.parent):
        print(f"written: {path}")


if __name__ == "__main__":
    run_command(main)
