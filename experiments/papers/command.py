"""What every experiment does when it is run as a module."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.papers.curves import curves_figure
from experiments.papers.drawing import figure
from experiments.papers.experiment import Experiment
from experiments.papers.scales import SCALES, Scale
from experiments.papers.tables import report, to_do
from experiments.papers.trained import Outcome, Run
from experiments.study import command_line, run_command, write_tables
from train.config.run import UserError
from train.storage.metrics import save_figure


def main(experiment: Experiment, description: str | None) -> None:
    """Run the command of an experiment."""
    run_command(functools.partial(make, experiment, description))


def make(experiment: Experiment, description: str | None) -> None:
    """Make what is missing, then print the tables and write them and the figure."""
    study, is_timed = experiment.study, experiment.metric == "seconds"
    parser = command_line(description, experiment.results, workers=1 if is_timed else None)
    parser.add_argument("--scale", choices=tuple(SCALES), default="cpu", help="how large the runs are")
    parser.add_argument("--list", "--dry-run", action="store_true", help="only list what is missing, and its cost")
    parser.add_argument("--seeds", type=int, help="make the first seeds only")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="make the runs of these methods only")
    parser.add_argument("--default-rates", action="store_true", help="try no learning rates yet")
    args = parser.parse_args()
    scale = SCALES[args.scale]
    some = scale if args.seeds is None else dataclasses.replace(scale, seeds=scale.seeds[: args.seeds])
    wanted = experiment if args.only is None else only(experiment, scale, args.only)
    if args.list:
        print(to_do(wanted, some, study.read(args.results)))
        return
    if not args.report:
        if not args.default_rates:
            make_trials(wanted, some, args.results, args.workers)
        study.make(wanted.runs(some, study.read(args.results)), args.results, args.workers)
    outcomes = study.read(args.results)
    print(report(experiment, outcomes))
    if not args.report:
        write_page(experiment, args.results, outcomes)


def make_trials(experiment: Experiment, scale: Scale, results: Path, workers: int) -> None:
    """Try rates until those of every method are found."""
    while True:
        outcomes = experiment.study.read(results)
        missing = [run for run in experiment.trials(scale, outcomes) if run not in outcomes]
        if not missing:
            return
        experiment.study.make(missing, results, workers)


def only(experiment: Experiment, scale: Scale, methods: Sequence[str]) -> Experiment:
    """An experiment with some of its methods.

    Raises:
      UserError: If it does not have one of them.
    """
    known = list(dict.fromkeys(arm.method for arm in experiment.arms(scale)))
    if unknown := [name for name in methods if name not in known]:
        raise UserError(f"--only {unknown[0]!r} is no method of {experiment.name}: choose from {', '.join(known)}.")
    return dataclasses.replace(
        experiment, arms=lambda scale: [arm for arm in experiment.arms(scale) if arm.method in methods]
    )


def write_page(experiment: Experiment, results: Path, outcomes: Mapping[Run, Outcome]) -> None:
    """Write the figures beside the results, and the tables into the page, if there is one."""
    for name in SCALES:
        if drawn := figure(experiment, name, outcomes):
            save_figure(drawn, results.with_name(f"{experiment.name}-{name}.png"))
        if drawn := curves_figure(experiment, name, outcomes):
            save_figure(drawn, results.with_name(f"{experiment.name}-{name}-curves.png"))
    write_tables(results.with_name(f"{experiment.name}.md"), report(experiment, outcomes))
