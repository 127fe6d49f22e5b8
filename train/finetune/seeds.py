"""Several seeds of one run: a folder each, and their mean and spread."""

import dataclasses
import json
import statistics
from typing import Any

from train.config.finetune import Finetune
from train.config.run import UserError
from train.config.validate import refuse_conflicts
from train.loop.child import LOG, last_line, run_child
from train.storage.folder import RunFolder
from train.system.files import locked, write_whole
from train.system.signals import Stopped, StopSignals

SEEDS = "seeds.json"
NO_RESULTS = ("tokens_per_second", "seconds")  # numbers of a summary that measure the machine


def run_seeds(config: Finetune) -> None:
    """Make the missing runs and print the table; stop at a signal, ready to resume."""
    refusal = f"another process is training in --run-dir {config.run_dir}: wait until it has finished."
    with locked(config.run_dir, refusal):
        try:
            with StopSignals() as signals:
                summaries = {seed: _summary(config, seed, signals) for seed in config.data.seeds}
        except Stopped as signal:
            print(f"{signal}: stopped, and nothing is lost; run the same command again to resume", flush=True)
            return
        table = spread(list(summaries.values()))
        content = {"seeds": summaries, "mean_and_deviation": table}
        write_whole(config.run_dir / SEEDS, json.dumps(content, indent=1) + "\n")
    for name, (mean, deviation) in table.items():
        print(f"{name:>17}  {mean:.4f} +- {deviation:.4f}")


def _summary(config: Finetune, seed: int, signals: StopSignals) -> dict[str, Any]:
    """Make the run of a seed if it is missing, and return its results."""
    folder = RunFolder(config.run_dir / f"seed{seed}")
    run = dataclasses.replace(
        config, run_dir=folder.path, data=dataclasses.replace(config.data, seed=seed, seeds=()), config=None
    )
    if folder.config.exists():
        refuse_conflicts(_with_step_of(folder, run), folder.stored().config)
    if not folder.summary.exists():
        signals.poll()
        print(f"seed {seed}: {'resumes' if folder.config.exists() else 'starts'}", flush=True)
        status = run_child(run, folder, signals.poll)
        if not folder.summary.exists():
            raise UserError(
                f"seed {seed} exited with status {status}; the last line of its log {folder.path / LOG} is: "
                f"{last_line(folder.path / LOG)} Fix this, then run the command again to resume."
            )
    summary: dict[str, Any] = json.loads(folder.summary.read_text())
    return summary


def _with_step_of(folder: RunFolder, run: Finetune) -> Finetune:
    """Name the checkpoint that a run has started from, unless one was asked for."""
    stored = folder.stored().config
    if run.start.init_step is not None or not isinstance(stored, Finetune):
        return run
    return dataclasses.replace(run, start=dataclasses.replace(run.start, init_step=stored.start.init_step))


def spread(summaries: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of losses and metrics."""
    names = [name for name, value in summaries[0].items() if isinstance(value, float) and name not in NO_RESULTS]
    columns = {name: [float(summary[name]) for summary in summaries] for name in names}
    return {name: (statistics.mean(values), _deviation(values)) for name, values in columns.items()}


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
